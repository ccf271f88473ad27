"""The texts of a request's answers, from the tokens of their rows."""

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from rlhf_forge.generation.engine import Drawn, Entry
from rlhf_forge.serve.dispatch import Dispatch
from rlhf_forge.serve.replies import Reply, event, usage
from rlhf_forge.serve.text_stream import TextStream


@dataclass(frozen=True)
class Piece:
    """Some text of one answer.

    Attributes:
        index: Which answer.
        text: May be empty at the end.
        reason: Why the answer ends here; None: it goes on.
        drawn: The tokens that the text comes from.
    """

    index: int
    text: str
    reason: str | None
    drawn: list[Drawn]


@dataclass
class _Answer:
    index: int
    text: TextStream
    reason: str | None = None
    untold: list[Drawn] = field(default_factory=list)
    last: float = 0.0


class Answers:
    """The answers to one request.

    Args:
        dispatch: Gets the tokens.
        entries: A row for each answer.
        texts: What makes each row's tokens text.
        arrived: When the request came, by the monotonic clock.
    """

    def __init__(
        self,
        dispatch: Dispatch,
        entries: Sequence[Entry],
        texts: Sequence[TextStream],
        arrived: float,
    ) -> None:
        self._dispatch = dispatch
        self._entries = list(entries)
        self._model = entries[0].request.role
        self._arrived = arrived
        self._of = {
            entry.name: _Answer(index, text)
            for index, (entry, text) in enumerate(zip(entries, texts, strict=True))
        }

    @property
    def used(self) -> dict[str, int]:
        """Tokens so far; a prompt counts once, however many answers it gets."""
        prompts = {id(entry.request.prompt): entry.request.prompt for entry in self._entries}
        tokens = sum(len(one.text.tokens) for one in self._of.values())
        return usage(sum(map(len, prompts.values())), tokens)

    async def pieces(self) -> AsyncIterator[Piece]:
        """The text of all answers as it comes."""
        try:
            async for drawn in self._dispatch.generate(self._entries):
                one = self._of[drawn.name]
                if one.reason is not None:
                    continue  # drawn before the worker heard that a stop string was met
                self._time(one)
                piece = self._push(one, drawn)
                if piece.text or piece.reason:
                    one.untold = []
                    yield piece
        finally:
            self._count()

    async def whole(self, reply: Reply) -> dict[str, object]:
        """The body of an answer that is not streamed."""
        got: list[list[Piece]] = [[] for _ in self._entries]
        async for piece in self.pieces():
            got[piece.index].append(piece)
        choices = [
            reply.choice(
                index,
                "".join(piece.text for piece in parts),
                parts[-1].reason,
                [drawn for piece in parts for drawn in piece.drawn],
            )
            for index, parts in enumerate(got)
        ]
        return reply.whole(choices, self.used)

    async def events(self, reply: Reply, *, with_usage: bool) -> AsyncIterator[str]:
        """The events of a stream, but for the last that says it is done."""
        opened: set[int] = set()
        async for piece in self.pieces():
            if piece.index not in opened:
                opened.add(piece.index)
                opening = reply.opening(piece.index)
                if opening is not None:
                    yield event(reply.chunk([opening], None))
            choice = reply.piece(piece.index, piece.text, piece.reason, piece.drawn)
            yield event(reply.chunk([choice], None))
        if with_usage:
            yield event(reply.chunk([], self.used))

    def _push(self, one: _Answer, drawn: Drawn) -> Piece:
        text = one.text.push(drawn.token)
        one.untold.append(drawn)
        if one.text.stopped:
            one.reason = "stop"
            self._dispatch.stop(drawn.name)
        elif drawn.ended is not None:
            one.reason = drawn.ended
            text += one.text.rest()
        return Piece(one.index, text, one.reason, one.untold)

    def _time(self, one: _Answer) -> None:
        now = time.monotonic()
        if one.last:
            self._dispatch.metrics.between.observe(now - one.last)
        else:
            self._dispatch.metrics.first.labels(self._model).observe(now - self._arrived)
        one.last = now

    def _count(self) -> None:
        metrics, used = self._dispatch.metrics, self.used
        metrics.tokens.labels(self._model, "prompt").inc(used["prompt_tokens"])
        metrics.tokens.labels(self._model, "completion").inc(used["completion_tokens"])
        metrics.whole.labels(self._model).observe(time.monotonic() - self._arrived)
