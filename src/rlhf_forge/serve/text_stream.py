"""Text from tokens as they come, in whole characters, up to a stop string."""

from collections.abc import Sequence

from rlhf_forge.data.render import ChatTemplate

INCOMPLETE = "�"


class TextStream:
    """Turns a response's tokens into pieces of text that add up to its decoded text.

    A piece ends before bytes that are not yet a whole character, before white space that may turn
    out to be the response's end, and before what may turn out to be a stop string. Of the tokens
    so far only the last few are decoded again, however long the response is.

    Args:
        template: Decodes.
        stops: The text ends before the first of these that is complete.
        trim: Whether white space at both ends is left out, as `ChatTemplate.decode` does.

    Attributes:
        tokens: All that were pushed.
        stopped: Whether a stop string was met; what is pushed then changes nothing.
    """

    def __init__(
        self, template: ChatTemplate, stops: Sequence[str] = (), *, trim: bool = True
    ) -> None:
        self.tokens: list[int] = []
        self.stopped = False
        self._template = template
        self._stops = stops
        self._trim = trim
        self._sent = False
        self._held = ""
        # Tokens before `_read` are text by now; those from `_known` on are decoded with the new
        # ones, as what a token's text is may depend on the one before it.
        self._known = self._read = 0

    def push(self, token: int) -> str:
        """The text that ``token`` makes certain; often one word, sometimes nothing."""
        self.tokens.append(token)
        text = self._raw(self.tokens[self._known :])
        if text.endswith(INCOMPLETE):
            return ""
        before = self._raw(self.tokens[self._known : self._read])
        self._known, self._read = self._read, len(self.tokens)
        return self._certain(text[len(before) :])

    def rest(self) -> str:
        """What was held back, once the response has ended."""
        if self.stopped:
            return ""
        text = self._held
        if self._read < len(self.tokens):
            before = self._raw(self.tokens[self._known : self._read])
            text += self._raw(self.tokens[self._known :])[len(before) :]
        return self._out(self._begun(text).rstrip() if self._trim else text)

    def _raw(self, tokens: list[int]) -> str:
        text = self._template.tokenizer.decode(tokens, skip_special_tokens=True)
        assert isinstance(text, str)
        return text

    def _certain(self, news: str) -> str:
        text = self._begun(self._held + news)
        ends = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        self.stopped = bool(ends)
        piece = text[: min(ends, default=len(text) - self._open_end(text))]
        piece = piece.rstrip() if self._trim else piece
        self._held = text[len(piece) :]
        return self._out(piece)

    def _begun(self, text: str) -> str:
        return text.lstrip() if self._trim and not self._sent else text

    def _out(self, piece: str) -> str:
        self._sent = self._sent or bool(piece)
        return piece

    def _open_end(self, text: str) -> int:
        """Characters at the end that a stop string may begin with."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        lengths = range(min(longest, len(text)), 0, -1)
        ends = (n for n in lengths if any(s.startswith(text[len(text) - n :]) for s in self._stops))
        return next(ends, 0)
