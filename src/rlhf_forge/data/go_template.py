"""A chat template as the Go template that Ollama fills in."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2.exceptions import TemplateError

from rlhf_forge.data.records import user
from rlhf_forge.data.render import ChatTemplate
from rlhf_forge.errors import UserError

# What stands for the turns' contents: characters that no template writes by itself.
MARK = "\ue000{}\ue001"
MARKED = re.compile("\ue000\\d\ue001")


@dataclass(frozen=True)
class Pieces:
    """What a chat template writes around the turns of a conversation, its begin token left out.

    Attributes:
        first: Before the first prompt.
        answer: Between a prompt and its answer.
        prompt: Between an answer and the next prompt.
        end: Behind the last prompt, where the answer begins.
        system: Before a system turn; None if the template takes none.
        after_system: Between a system turn, written or not, and the first prompt.
    """

    first: str
    answer: str
    prompt: str
    end: str
    system: str | None
    after_system: str

    def around(self, roles: Sequence[str]) -> list[str]:
        """What these pieces say that the template writes around turns of ``roles``."""
        written = []
        for at, role in enumerate(roles):
            before = {"system": self.system or "", "assistant": self.answer, "user": self.prompt}
            follows = self.after_system if "system" in roles else self.first
            opens = role == "user" and "assistant" not in roles[:at]
            written.append(follows if opens else before[role])
        return [*written, self.end]


def go_template(template: ChatTemplate) -> str:
    """The Go template (the subset that Ollama has) that writes what ``template`` writes.

    For conversations of prompts and answers in turn that end with a prompt, behind a system turn or
    not. Jinja's filters cannot be carried over: ours trims each turn, Go does not. The begin token
    is left out, as the tokenizer adds it.

    Raises:
        UserError: If what the template writes around a turn depends on more than its neighbours.
    """
    pieces = pieces_of(template)
    says = "{{- range $at, $turn := .Messages }}\n"
    system = "" if pieces.system is None else _turn(pieces.system)
    says += f'{{{{- if eq $turn.Role "system" }}}}{system}\n'
    says += f'{{{{- else if eq $turn.Role "assistant" }}}}{_turn(pieces.answer)}\n'
    says += f"{{{{- else if eq $at 0 }}}}{_turn(pieces.first)}\n"
    says += f"{{{{- else if and $.System (eq $at 1) }}}}{_turn(pieces.after_system)}\n"
    says += f"{{{{- else }}}}{_turn(pieces.prompt)}\n"
    return says + "{{- end }}\n{{- end }}" + _literal(pieces.end)


def pieces_of(template: ChatTemplate) -> Pieces:
    """What ``template`` writes around the turns, read off its renderings and checked on others.

    Raises:
        UserError: As `go_template`.
    """
    whole = _around(template, ["user", "assistant", "user"])
    if whole is None:
        raise _not_for_ollama(template)
    opened = _around(template, ["system", "user"])
    first, answer, prompt, end = whole
    system, after_system = (None, first) if opened is None else opened[:2]
    pieces = Pieces(first, answer, prompt, end, system, after_system)
    for before in ([],) if opened is None else ([], ["system"]):
        for answers in range(3):
            roles = [*before, "user", *["assistant", "user"] * answers]
            if _around(template, roles) != pieces.around(roles):
                raise _not_for_ollama(template)
    return pieces


def begins(template: ChatTemplate) -> bool:
    """Whether a conversation begins with the tokenizer's begin token."""
    bos: int | None = template.tokenizer.bos_token_id
    return template.prompt(user("a"))[0] == bos


def _around(template: ChatTemplate, roles: Sequence[str]) -> list[str] | None:
    """What is written before, between and behind turns of ``roles``; None if it is refused."""
    marks = [MARK.format(at) for at in range(len(roles))]
    turns = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
    try:
        written = template.tokenizer.apply_chat_template(
            turns, chat_template=template.text, tokenize=False, add_generation_prompt=True
        )
    except (TemplateError, TypeError):
        return None
    text = str(written)
    if MARKED.findall(text) != marks:
        raise _not_for_ollama(template)
    bos = template.tokenizer.bos_token
    return MARKED.split(text.removeprefix(bos) if isinstance(bos, str) else text)


def _turn(before: str) -> str:
    return _literal(before) + "{{ $turn.Content }}"


def _literal(text: str) -> str:
    """An action that writes ``text``; JSON's escapes are Go's too."""
    return "{{ " + json.dumps(text, ensure_ascii=False) + " }}" if text else ""


def _not_for_ollama(template: ChatTemplate) -> UserError:
    return UserError(
        f"the chat template {template.name} writes other things around a turn than its place and "
        "its neighbours tell, which Ollama's TEMPLATE cannot say",
        hint="export with --merge and write the Modelfile by hand",
    )
