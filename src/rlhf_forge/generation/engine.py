"""Rows that generate together, each at its own length: they enter and leave between two steps."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.generation.cache import SlotCache
from rlhf_forge.generation.sampler import Sampling, draw, uniform_draws
from rlhf_forge.generation.steps import Steps

# Prompt tokens, padding counted, that are read at once: more is no faster and holds more memory.
PREFILL_TOKENS = 8192


@dataclass(frozen=True)
class Request:
    """One response to generate.

    Attributes:
        prompt: Token ids, at least one.
        role: Whose adapter generates.
        key: What its randomness is a function of; see `uniform_draws`.
    """

    prompt: Sequence[int]
    role: str
    key: Sequence[int]


@dataclass(frozen=True)
class Entry:
    """A request as the engine takes it.

    Attributes:
        name: What its tokens are called by; of its own among the rows that run.
        request: What to generate.
        sampling: How.
        top: Tokens whose log-probabilities are told at each step, likeliest first, besides that of
            the token drawn; None: no log-probabilities.
    """

    name: Any
    request: Request
    sampling: Sampling
    top: int | None = None


@dataclass(frozen=True)
class Likelihood:
    """Log-probabilities at one step, in nats, of the model as it is: at temperature 1.

    Attributes:
        drawn: Of the token that was drawn.
        top: The likeliest tokens with theirs.
    """

    drawn: float
    top: list[tuple[int, float]]


@dataclass(frozen=True)
class Drawn:
    """One token of one row.

    Attributes:
        name: Of the row.
        token: Its id.
        ended: Why this is the row's last: an id that ends a response, or the length limit.
        likelihood: If the row asked for it.
    """

    name: Any
    token: int
    ended: Literal["stop", "length"] | None
    likelihood: Likelihood | None = None


@dataclass
class _Row:
    """A running row; ``logits`` are those to draw its first token from, until it is drawn."""

    entry: Entry
    uniforms: Float[np.ndarray, "length"]
    logits: Float[Tensor, "vocab"] | None
    tokens: list[int] = field(default_factory=list)
    dropped: bool = False

    @property
    def held(self) -> int:
        """Tokens in the cache."""
        return len(self.entry.request.prompt) + max(0, len(self.tokens) - 1)

    def take(self, token: int, ends: Collection[int]) -> Literal["stop", "length"] | None:
        """Go on by ``token``; why that was the last one."""
        self.tokens.append(token)
        if token in ends:
            return "stop"
        return "length" if len(self.tokens) == self.entry.sampling.max_new_tokens else None


class Engine:
    """Generates for as many rows at once as there are slots.

    The running rows lie in the first slots: the last one moves into the place of a row that has
    ended. A row's tokens are a function of its entry alone, whatever runs beside it, but for what
    rounding does to logits. Adapters may have been copied: who trains one makes another engine.

    Args:
        backbone: With the roles that entries name.
        slots: Most rows at once.
        eos_ids: Ids that end a response.
    """

    def __init__(self, backbone: Backbone, *, slots: int, eos_ids: Collection[int]) -> None:
        self.backbone = backbone
        self.slots = slots
        self.eos_ids = frozenset(eos_ids)
        self.clear()

    def clear(self) -> None:
        """Forget all rows."""
        model = self.backbone.model
        self._rows: list[_Row] = []
        self._cache = SlotCache(model.config, self.slots, self.backbone.device, model.dtype)
        self._steps = Steps(self.backbone, self._cache) if self.backbone.packed else None

    @property
    def running(self) -> int:
        """Rows in slots."""
        return len(self._rows)

    @property
    def free(self) -> int:
        """Slots without a row."""
        return self.slots - len(self._rows)

    @property
    def held(self) -> int:
        """Tokens in the cache."""
        return sum(row.held for row in self._rows)

    @property
    def names(self) -> list[Any]:
        """Of the rows in slots, less those that were dropped."""
        return [row.entry.name for row in self._rows if not row.dropped]

    def drop(self, names: Collection[Any]) -> None:
        """Let these rows go: the next step tells nothing of them and frees their slots."""
        for row in self._rows:
            row.dropped |= row.entry.name in names

    @torch.no_grad()
    def add(self, entries: Sequence[Entry]) -> None:
        """Read the prompts of rows that generate from the next step on.

        A prompt that several of them share with their role is read once.

        Raises:
            ValueError: If there are more than free slots, or a prompt is empty.
        """
        if len(entries) > self.free:
            raise ValueError(f"{len(entries)} rows for {self.free} free slots")
        if not all(len(entry.request.prompt) for entry in entries):
            raise ValueError("a row needs a token in every prompt")
        siblings: dict[tuple[str, tuple[int, ...]], list[Entry]] = defaultdict(list)
        for entry in entries:
            siblings[entry.request.role, tuple(entry.request.prompt)].append(entry)
        first = self.running
        logits = self._prefill(list(siblings))
        for same, row in zip(siblings.values(), logits, strict=True):
            self._rows.append(_started(same[0], row))
        for owner, same in enumerate(siblings.values()):
            for entry in same[1:]:
                self._cache.copy(first + owner, self.running, len(entry.request.prompt))
                self._rows.append(_started(entry, logits[owner]))

    def step(self) -> list[Drawn]:
        """Draw a token for every row; rows that end leave their slots."""
        if not self._rows:
            return []
        with torch.no_grad():
            logits = self._logits()
            tokens = self._draw(logits)
        told = self._told(logits, tokens)
        drawn = [
            Drawn(row.entry.name, token, row.take(token, self.eos_ids), told.get(at))
            for at, (row, token) in enumerate(zip(self._rows, tokens.tolist(), strict=True))
        ]
        here = [not row.dropped for row in self._rows]
        going_on = [one.ended is None and stays for one, stays in zip(drawn, here, strict=True)]
        self._keep(going_on)
        return [one for one, stays in zip(drawn, here, strict=True) if stays]

    def _keep(self, going_on: Sequence[bool]) -> None:
        for slot in reversed(range(len(going_on))):
            if going_on[slot]:
                continue
            last = self._rows.pop()
            if slot < len(self._rows):
                self._cache.copy(len(self._rows), slot, last.held)
                self._rows[slot] = last

    def _prefill(
        self, prompts: Sequence[tuple[str, tuple[int, ...]]]
    ) -> Float[Tensor, "rows vocab"]:
        """Logits after each prompt; keys and values go into the slots behind the running rows."""
        longest = max(len(tokens) for _, tokens in prompts)
        count = max(1, PREFILL_TOKENS // longest)
        starts = range(0, len(prompts), count)
        return torch.cat([self._read_prompts(at, prompts[at : at + count]) for at in starts])

    def _read_prompts(
        self, behind: int, prompts: Sequence[tuple[str, tuple[int, ...]]]
    ) -> Float[Tensor, "rows vocab"]:
        width = max(len(tokens) for _, tokens in prompts)
        tokens = torch.zeros(len(prompts), width, dtype=torch.long)
        positions = torch.zeros_like(tokens)
        for row, (_, ids) in enumerate(prompts):
            # Padding stands on the left, so that a row's logits are in the last column, and counts
            # as what comes behind the prompt: in columns that are not seen before they are written.
            pad = width - len(ids)
            tokens[row, pad:] = torch.tensor(ids)
            positions[row] = torch.arange(-pad, len(ids))
            positions[row, :pad] += width
        first = len(self._rows) + behind
        return self._read(first, tokens, positions, [role for role, _ in prompts])

    def _logits(self) -> Float[Tensor, "running vocab"]:
        """Logits that each row's next token is drawn from; rows without a token are the last."""
        fresh = [row.logits for row in self._rows if row.logits is not None]
        going = self._rows[: len(self._rows) - len(fresh)]
        parts = []
        if going:
            parts.append(self._next(going))
        if fresh:
            parts.append(torch.stack(fresh))
            for row in self._rows:
                row.logits = None
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _next(self, rows: Sequence[_Row]) -> Float[Tensor, "rows vocab"]:
        tokens, positions = [row.tokens[-1] for row in rows], [row.held for row in rows]
        roles = [row.entry.request.role for row in rows]
        if self._steps is not None:
            waiting = [row.held for row in self._rows[len(rows) :]]
            return self._steps(tokens, positions, roles, waiting=waiting)
        return self._read(0, torch.tensor(tokens)[:, None], torch.tensor(positions)[:, None], roles)

    def _read(
        self,
        first: int,
        tokens: Int[Tensor, "rows new"],
        positions: Int[Tensor, "rows new"],
        roles: Sequence[str],
    ) -> Float[Tensor, "rows vocab"]:
        device = self.backbone.device
        self._cache.reserve(int(positions.max()) + 1)
        tokens, positions = tokens.to(device), positions.to(device)
        mask = self._cache.place(first, positions)
        with self.backbone.using(roles):
            return self.backbone.next_logits(tokens, mask, positions, self._cache)

    def _draw(self, logits: Float[Tensor, "running vocab"]) -> Int[Tensor, "running"]:
        numbers = np.array([row.uniforms[len(row.tokens)] for row in self._rows])
        uniforms = torch.from_numpy(numbers).to(logits.device)
        alike: dict[tuple[float, float, int], list[int]] = defaultdict(list)
        for at, row in enumerate(self._rows):
            alike[row.entry.sampling.choice].append(at)
        if len(alike) == 1:
            return draw(logits, uniforms, self._rows[0].entry.sampling)
        tokens = torch.zeros(len(self._rows), dtype=torch.long, device=logits.device)
        for rows in alike.values():
            sampling = self._rows[rows[0]].entry.sampling
            tokens[rows] = draw(logits[rows], uniforms[rows], sampling)
        return tokens

    def _told(
        self, logits: Float[Tensor, "running vocab"], tokens: Int[Tensor, "running"]
    ) -> dict[int, Likelihood]:
        """Log-probabilities, of the rows that asked for them."""
        told = {}
        for at, row in enumerate(self._rows):
            if row.entry.top is not None:
                log_probs = logits[at].log_softmax(-1)
                top = log_probs.topk(row.entry.top)
                pairs = list(zip(top.indices.tolist(), top.values.tolist(), strict=True))
                told[at] = Likelihood(log_probs[tokens[at]].item(), pairs)
        return told


def _started(entry: Entry, logits: Float[Tensor, "vocab"]) -> _Row:
    uniforms = uniform_draws([entry.request.key], entry.sampling.max_new_tokens)[0]
    return _Row(entry, uniforms, logits)
