"""From a conversation to tokens: the one way, for training, PPO and serving alike."""

import difflib
import json
import re
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2.exceptions import TemplateError

from rlhf_forge.data.records import BadRecord, Conversation, assistant, user
from rlhf_forge.errors import UserError
from rlhf_forge.hub import tokenizer_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Span = tuple[int, int]

# Tokenizers whose vocabularies agree but cut text differently differ on this.
PROBE = "Hello  world's 3.14159\n\n\tdéjà vu, 你好 🙂 def f(x): return x**2"


def load_template(tokenizer: str, choice: str) -> "ChatTemplate":
    """The chat template ``choice`` over the tokenizer of a base.

    Args:
        tokenizer: Folder or hub name of the base, or package:FOLDER.
        choice: ``mistral`` for ours, ``tokenizer`` for the tokenizer's own, or a Jinja file.

    Raises:
        UserError: If the tokenizer or the template is not to be had, or is not usable.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    folder = tokenizer_folder(tokenizer)
    try:
        loaded = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"base {tokenizer}: no usable tokenizer in {folder}: {reason}") from None
    if not isinstance(loaded, PreTrainedTokenizerFast):
        raise UserError(
            f"base {tokenizer}: its tokenizer has no tokenizer.json in {folder}",
            hint="only tokenizers in that form are read; save it with a fast tokenizer",
        )
    name = f"of the tokenizer in {tokenizer}" if choice == "tokenizer" else choice
    return ChatTemplate(loaded, _template_text(loaded, choice, tokenizer), name=name)


def _template_text(tokenizer: "PreTrainedTokenizerFast", choice: str, base: str) -> str:
    if choice == "tokenizer":
        if not isinstance(tokenizer.chat_template, str):
            raise UserError(
                f"data.chat_template: the tokenizer of {base} has no chat template",
                hint="set data.chat_template to mistral (ours) or to a Jinja file",
            )
        return tokenizer.chat_template
    if choice == "mistral":
        shipped = files("rlhf_forge.data").joinpath("templates", "mistral.jinja")
        return shipped.read_text(encoding="utf-8")
    place = Path(choice).expanduser()
    try:
        return place.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        beside = [str(path) for path in place.parent.glob("*")]
        near = difflib.get_close_matches(choice, ["tokenizer", "mistral", *beside], n=1)
        raise UserError(
            f"data.chat_template: {choice!r} is neither tokenizer, mistral nor a text file",
            hint=f"did you mean {near[0]}?"
            if near
            else "set it to mistral (ours), tokenizer (the base's own) or the path of a Jinja file",
        ) from None


class ChatTemplate:
    """Renders conversations and knows which of their tokens an assistant wrote.

    The mask comes from rendering the beginnings of a conversation and comparing token ids, not
    from markers in the template, so it holds for any template that passes the check here.

    Args:
        tokenizer: Of the base.
        text: The Jinja template.
        name: The template's, for messages.

    Attributes:
        hash: Of the template's text.
        tokenizer_hash: Of the vocabulary and of how a probe text is cut.
        eos_ids: Tokens that end an answer.

    Raises:
        UserError: If the template cannot be read, if the beginning of a conversation is not
            rendered as the beginning of the whole, if it begins twice, or if no control token ends
            an answer: a model trained with it would never learn to stop.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerFast", text: str, *, name: str = "given"
    ) -> None:
        self.tokenizer = tokenizer
        self.text = text
        self.name = name
        self.hash = sha256(text.encode()).hexdigest()
        added = tokenizer.added_tokens_decoder
        self._control_ids = {id_ for id_, token in added.items() if token.special}
        names = sorted((added[id_].content for id_ in self._control_ids), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, names)) or r"(?!)")
        self._numbers: dict[int, int] = {}
        self.tokenizer_hash = self._hash_tokenizer()
        self._bos: list[int] = []
        self._bos = self._missing_bos()
        self.eos_ids = self._find_eos()

    def prompt(self, conversation: Conversation) -> list[int]:
        """Tokens up to where the assistant begins to speak.

        Raises:
            BadRecord: If an answer is the last turn, or the template refuses the conversation.
        """
        if conversation and conversation[-1]["role"] == "assistant":
            raise BadRecord("the prompt ends with an answer")
        return self._encode(conversation, answering=True)

    def answered(
        self, prompt: Conversation, response: Conversation
    ) -> tuple[list[int], list[bool]]:
        """Tokens of the conversation up to the end of its last answer, and which are learnt.

        Args:
            prompt: Not learnt.
            response: Its assistant turns are learnt, each with the token that ends it.

        Raises:
            BadRecord: If the template refuses the conversation, or renders its beginning
                differently from the beginning of the whole.
        """
        tokens, spans = self._spans(prompt, response)
        targets = [False] * len(tokens)
        end = len(tokens)
        for start, stop in spans:
            # A template may write a line break behind the end token; nobody samples it.
            ends = [at for at in range(start, stop) if tokens[at] in self.eos_ids]
            if not ends:
                raise BadRecord(f"the chat template {self.name} does not end its answer")
            end = ends[-1] + 1
            targets[start:end] = [True] * (end - start)
        return tokens[:end], targets[:end]

    def plain(self, text: str) -> list[int]:
        """Tokens of a text outside any conversation, behind the begin token if there is one.

        Raises:
            BadRecord: If it is no valid Unicode.
        """
        bos = self.tokenizer.bos_token_id
        wanted = self.tokenizer.backend_tokenizer.encode("a").ids[:1] == [bos]
        return ([bos] if isinstance(bos, int) and wanted else []) + self._ids(text, as_text=True)

    def decode(self, tokens: list[int]) -> str:
        """Text of a response, without control tokens and without the blank it begins with."""
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        assert isinstance(text, str)
        return text.strip()

    def _spans(self, prompt: Conversation, response: Conversation) -> tuple[list[int], list[Span]]:
        """Tokens of the whole, and where each assistant turn of ``response`` starts and stops."""
        turns = prompt + response
        plain = not self._typed(turns)
        tokens = self._encode(turns, answering=False, plain=plain)
        spans = []
        for at in range(len(prompt), len(turns)):
            if turns[at]["role"] == "assistant":
                before = self._encode(turns[:at], answering=True, plain=plain)
                last = at + 1 == len(turns)
                upto = tokens if last else self._encode(turns[: at + 1], plain=plain)
                if tokens[: len(before)] != before or tokens[: len(upto)] != upto:
                    raise BadRecord(
                        f"the chat template {self.name} does not render the beginning of a "
                        f"conversation as the beginning of the whole: turn {at + 1}"
                    )
                spans.append((len(before), len(upto)))
        return tokens, spans

    def _encode(
        self, turns: Conversation, *, answering: bool = False, plain: bool | None = None
    ) -> list[int]:
        """Token ids; control tokens in what people wrote become the text they are.

        Args:
            turns: The conversation.
            answering: Whether the assistant's beginning is written behind it.
            plain: Whether nobody typed a control token; looked up if not given. The beginning of
                a conversation must be encoded the way of the whole.
        """
        plain = not self._typed(turns) if plain is None else plain
        if plain:
            return self._bos + self._ids(self._render(turns, answering=answering))
        everything = "".join(turn["content"] for turn in turns)
        mark = next(chr(code) for code in range(0xE000, 0xF900) if chr(code) not in everything)
        typed = {f"{mark}{n}{mark}": text for n, text in enumerate(self._typed(turns))}
        names = {text: name for name, text in typed.items()}
        hidden = [
            turn | {"content": self._control.sub(lambda m: names[m.group()], turn["content"])}
            for turn in turns
        ]
        return self._bos + self._ids_in_pieces(self._render(hidden, answering=answering), typed)

    def _typed(self, turns: Conversation) -> list[str]:
        """Control tokens that people wrote."""
        return sorted({token for t in turns for token in self._control.findall(t["content"])})

    def _ids_in_pieces(self, rendered: str, typed: dict[str, str]) -> list[int]:
        """Control tokens of the template by their ids, what stands between them as plain text."""
        ids: list[int] = []
        at = 0
        for control in [*self._control.finditer(rendered), None]:
            piece = rendered[at : control.start() if control else None]
            for name, text in typed.items():
                piece = piece.replace(name, text)
            ids += self._ids(piece, as_text=True)
            if control:
                ids += self._ids(control.group())
                at = control.end()
        return ids

    def _ids(self, text: str, *, as_text: bool = False) -> list[int]:
        backend = self.tokenizer.backend_tokenizer
        # State of the tokenizer that outlives a call, hence set before each.
        backend.encode_special_tokens = as_text
        try:
            ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        except (UnicodeEncodeError, TypeError):
            raise BadRecord("its text is not valid Unicode (half of a surrogate pair)") from None
        # One number an id: those of the tokenizer are 28 bytes each, of every token that is held.
        return [self._numbers.setdefault(number, number) for number in ids]

    def _render(self, turns: Conversation, *, answering: bool) -> str:
        try:
            # As a batch of one: a conversation without turns is refused otherwise.
            texts = self.tokenizer.apply_chat_template(
                [turns],
                chat_template=self.text,
                tokenize=False,
                add_generation_prompt=answering,
            )
        except (TemplateError, TypeError) as error:
            raise BadRecord(f"the chat template {self.name} refuses it: {error}") from None
        return str(texts[0])

    def _hash_tokenizer(self) -> str:
        # Not the serialised tokenizer: its text changes with the version of the library.
        state = [sorted(self.tokenizer.get_vocab().items()), self._ids(PROBE)]
        return sha256(json.dumps(state).encode()).hexdigest()

    def _missing_bos(self) -> list[int]:
        """The begin token, where the tokenizer wants one and the template writes none."""
        bos = self.tokenizer.bos_token_id
        try:
            tokens = self._encode(user("a"), answering=True)
        except BadRecord as bad:
            raise UserError(f"data.chat_template: {bad}") from None
        if tokens[:2] == [bos, bos]:
            raise UserError(
                f"data.chat_template: the chat template {self.name} writes the begin token twice",
                hint="take one {{ bos_token }} out of it",
            )
        wanted = self.tokenizer.backend_tokenizer.encode("a").ids[:1] == [bos]
        return [bos] if isinstance(bos, int) and wanted and tokens[0] != bos else []

    def _find_eos(self) -> frozenset[int]:
        """The ids that end an answer: the first control token behind one, and the tokenizer's."""
        two_answers = assistant("b") + user("c") + assistant("d")
        try:
            tokens, spans = self._spans(user("a"), two_answers)
        except BadRecord as bad:
            raise UserError(
                f"data.chat_template: {bad}",
                hint="the assistant's tokens could not be told from the others; "
                "set data.chat_template to mistral, or mend the template",
            ) from None
        ends = [
            next((t for t in tokens[start:stop] if t in self._control_ids), None)
            for start, stop in spans
        ]
        if None in ends:
            raise UserError(
                f"data.chat_template: the chat template {self.name} does not end an answer with a "
                "control token, so a model trained on it never learns to stop",
                hint="end the assistant's turn with {{ eos_token }}",
            )
        own = self.tokenizer.eos_token_id
        return frozenset(t for t in [*ends, own] if isinstance(t, int))
