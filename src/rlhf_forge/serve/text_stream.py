"""Text from tokens as they come, in whole characters."""

from rlhf_forge.data.render import ChatTemplate

INCOMPLETE = "�"


class TextStream:
    """Turns a response's tokens into pieces of text that add up to its decoded text.

    A piece ends before bytes that are not yet a whole character, and before white space that may
    turn out to be the response's end.

    Args:
        template: Decodes.
    """

    def __init__(self, template: ChatTemplate) -> None:
        self.tokens: list[int] = []
        self._template = template
        self._sent = ""

    def push(self, token: int) -> str:
        """The text that ``token`` makes certain; often one word, sometimes nothing."""
        self.tokens.append(token)
        return self._news(self._template.decode(self.tokens).rstrip(INCOMPLETE).rstrip())

    def rest(self) -> str:
        """What was held back, once the response has ended."""
        return self._news(self._template.decode(self.tokens))

    def _news(self, text: str) -> str:
        piece = text[len(self._sent) :]
        self._sent += piece
        return piece
