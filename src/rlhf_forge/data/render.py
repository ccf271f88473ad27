"""From a conversation to tokens: the one way, for training, PPO and serving alike."""

from hashlib import sha256
from importlib.resources import files
from pathlib import Path

from jinja2.exceptions import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rlhf_forge.data.records import BadRecord, Conversation, assistant, user
from rlhf_forge.errors import UserError
from rlhf_forge.hub import tokenizer_folder

# Stands for a text with control tokens in it while the template is rendered around it.
PLACEHOLDER = "\ue000{}\ue001"


def load_template(tokenizer: str, choice: str) -> "ChatTemplate":
    """The chat template ``choice`` over the tokenizer of a base.

    Args:
        tokenizer: Folder or hub name of the base.
        choice: ``mistral`` for ours, ``tokenizer`` for the tokenizer's own, or a Jinja file.

    Raises:
        UserError: If the tokenizer or the template is not to be had.
    """
    folder = tokenizer_folder(tokenizer)
    try:
        loaded = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"base {tokenizer}: no usable tokenizer in {folder}: {reason}") from None
    return ChatTemplate(loaded, _template_text(loaded, choice, tokenizer))


def _template_text(tokenizer: PreTrainedTokenizerFast, choice: str, name: str) -> str:
    if choice == "tokenizer":
        if not isinstance(tokenizer.chat_template, str):
            raise UserError(
                f"data.chat_template: the tokenizer of {name} has no chat template",
                hint="set data.chat_template to mistral (ours) or to a Jinja file",
            )
        return tokenizer.chat_template
    shipped = files("rlhf_forge.data").joinpath("templates", f"{choice}.jinja")
    if shipped.is_file():
        return shipped.read_text(encoding="utf-8")
    if Path(choice).is_file():
        return Path(choice).read_text(encoding="utf-8")
    raise UserError(
        f"data.chat_template: {choice!r} is neither tokenizer, mistral nor a file",
        hint="set it to mistral (ours), tokenizer (the base's own) or the path of a Jinja file",
    )


class ChatTemplate:
    """Renders conversations and knows which of their tokens an assistant wrote.

    Args:
        tokenizer: Of the base.
        text: The Jinja template.

    Raises:
        UserError: If the template does not end an answer with a control token: a model trained
            with it would never learn to stop.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, text: str) -> None:
        self.tokenizer = tokenizer
        self.text = text
        self.hash = sha256(text.encode()).hexdigest()
        self.tokenizer_hash = sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
        self._specials = [t for t in tokenizer.all_special_tokens if t]
        self.eos_ids = self._find_eos()

    def prompt(self, conversation: Conversation) -> list[int]:
        """Tokens up to where the assistant begins to speak.

        Raises:
            BadRecord: If the template cannot render the conversation.
        """
        return self._encode(conversation, answering=True)

    def answered(
        self, prompt: Conversation, response: Conversation
    ) -> tuple[list[int], list[bool]]:
        """Tokens of the whole conversation, and which of them are learnt.

        Args:
            prompt: Not learnt.
            response: Its assistant turns are learnt, each with the token that ends it.

        Raises:
            BadRecord: If the template cannot render the conversation.
            UserError: If rendering a beginning does not give the beginning of the tokens: then
                nobody can say which tokens the assistant wrote.
        """
        turns = prompt + response
        tokens = self._encode(turns, answering=False)
        targets = [False] * len(tokens)
        for at in range(len(prompt), len(turns)):
            if turns[at]["role"] != "assistant":
                continue
            start = self._prefix_length(tokens, turns[:at], answering=True)
            whole = at + 1 == len(turns)
            end = len(tokens) if whole else self._prefix_length(tokens, turns[: at + 1])
            targets[start:end] = [True] * (end - start)
        return tokens, targets

    def decode(self, tokens: list[int]) -> str:
        """Text of a response, without control tokens and without the blank it begins with."""
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return text.strip()

    def _prefix_length(
        self, tokens: list[int], turns: Conversation, *, answering: bool = False
    ) -> int:
        prefix = self._encode(turns, answering=answering)
        if tokens[: len(prefix)] != prefix:
            raise UserError(
                "data.chat_template: the beginning of a conversation is not rendered as the "
                "beginning of the whole, so the assistant's tokens cannot be told from the others",
                hint="set data.chat_template to mistral, or mend the template",
            )
        return len(prefix)

    def _encode(self, conversation: Conversation, *, answering: bool) -> list[int]:
        """Token ids; control tokens in what people wrote are encoded as the text they are."""
        hostile = {
            PLACEHOLDER.format(at): turn["content"]
            for at, turn in enumerate(conversation)
            if any(special in turn["content"] for special in self._specials)
        }
        names = {text: name for name, text in hostile.items()}
        turns = [t | {"content": names.get(t["content"], t["content"])} for t in conversation]
        rendered = self._render(turns, answering=answering)
        if not hostile:
            return self._ids(rendered)
        return self._in_pieces(rendered, hostile)

    def _in_pieces(self, rendered: str, hostile: dict[str, str]) -> list[int]:
        ids: list[int] = []
        rest = rendered
        while rest:
            at, name = min(
                ((rest.index(name), name) for name in hostile if name in rest),
                default=(len(rest), ""),
            )
            ids += self._ids(rest[:at])
            if name:
                ids += self.tokenizer.encode(
                    hostile[name], add_special_tokens=False, split_special_tokens=True
                )
            rest = rest[at + len(name) :]
        return ids

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.backend_tokenizer.encode(
            text, add_special_tokens=False
        ).ids
        return ids

    def _render(self, conversation: Conversation, *, answering: bool) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                conversation,
                chat_template=self.text,
                tokenize=False,
                add_generation_prompt=answering,
            )
        except TemplateError as error:
            raise BadRecord(f"the chat template refuses it: {error}") from None
        assert isinstance(text, str)
        return text

    def _find_eos(self) -> frozenset[int]:
        """The ids that end an answer: the first control token behind one, and the tokenizer's."""
        tokens, targets = self.answered(user("a"), assistant("b"))
        special = set(self.tokenizer.all_special_ids)
        ends = [t for t, target in zip(tokens, targets, strict=True) if target and t in special]
        if not ends:
            raise UserError(
                "data.chat_template: an answer does not end with a control token, so a model "
                "trained on it never learns to stop",
                hint="end the assistant's turn with {{ eos_token }}",
            )
        own = self.tokenizer.eos_token_id
        return frozenset({ends[0]} if own is None else {ends[0], own})
