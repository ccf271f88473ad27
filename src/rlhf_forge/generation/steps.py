"""Steps of the running rows: on a GPU each shape is captured once and replayed.

A step of a 7B model is over a thousand small operations. Launched one by one they take the host
several times as long as the GPU; a captured graph is launched as one.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.decode_step import DecodeStep
from rlhf_forge.generation.cache import SlotCache

# A captured step looks at so many columns, or twice as many, ...: what is not written is masked.
COLUMNS_SEEN = 256


class Steps:
    """One token after the other for the rows in the first slots of ``cache``.

    The adapters are copied when a role is first asked for.

    Args:
        backbone: Its decoder packs.
        cache: Where the rows' keys and values are.
    """

    def __init__(self, backbone: Backbone, cache: SlotCache) -> None:
        self._backbone, self._cache = backbone, cache
        self._step: DecodeStep | None = None
        self._graphs: dict[tuple[int, int], _Graph] = {}
        self._moves = cache.moves
        self._captures = backbone.device.type == "cuda"

    def __call__(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        roles: Sequence[str],
        *,
        waiting: Sequence[int] = (),
    ) -> Float[Tensor, "rows vocab"]:
        """Logits after each row's token at its position, float32; valid until the next call.

        Args:
            tokens: The newest of each row, from the first slot on.
            positions: Theirs.
            roles: Of the rows.
            waiting: Position of the next token of each row in the slots behind, which is not known
                yet: what is there may be overwritten.
        """
        step = self._step_for(roles)
        seen = max(positions) + 1
        self._cache.reserve(max(seen, *(position + 1 for position in waiting), 0))
        numbers = torch.tensor([tokens, positions, [step.roles.index(role) for role in roles]])
        if not self._captures:
            return step(numbers[0], numbers[1], numbers[2], self._cache.layers, seen)
        graph = self._graph_for(step, len(tokens), seen)
        return graph(numbers, waiting, self._pool)[: len(tokens)]

    def _step_for(self, roles: Sequence[str]) -> DecodeStep:
        known = self._step.roles if self._step is not None else ()
        if self._step is None or set(roles) - set(known):
            self._step = DecodeStep(self._backbone, sorted({*known, *roles}))
            self._graphs = {}
        return self._step

    def _graph_for(self, step: DecodeStep, rows: int, seen: int) -> "_Graph":
        if self._moves != self._cache.moves:  # what the graphs point to is gone
            self._graphs, self._moves = {}, self._cache.moves
        rows = min(self._cache.slots, 1 << (rows - 1).bit_length())
        seen = min(self._cache.columns, -(-seen // COLUMNS_SEEN) * COLUMNS_SEEN)
        if (rows, seen) not in self._graphs:
            self._graphs[rows, seen] = _Graph(step, self._cache, rows, seen)
        return self._graphs[rows, seen]

    @property
    def _pool(self) -> Any:
        """Memory of the graphs captured so far, None before: all work in the same, one at a time.

        Only logits are kept between two steps, and by their graph.
        """
        return next((graph.pool for graph in self._graphs.values() if graph.pool is not None), None)


class _Graph:
    """Steps of one shape.

    Slots whose rows wait are computed too, and those without: they write where the row's next token
    will, or the first of a row to come.
    """

    def __init__(self, step: DecodeStep, cache: SlotCache, rows: int, seen: int) -> None:
        self._step, self._cache, self._seen = step, cache, seen
        self._numbers = torch.zeros(3, rows, dtype=torch.long, device=cache.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits: Tensor | None = None
        self._is_warm = False

    @property
    def pool(self) -> Any:
        """Where it works; None before it is captured."""
        return None if self._graph is None else self._graph.pool()

    def __call__(
        self, numbers: Int[Tensor, "3 running"], waiting: Sequence[int], pool: Any
    ) -> Float[Tensor, "rows vocab"]:
        idle = self._numbers.shape[1] - numbers.shape[1]
        padded = F.pad(numbers, (0, idle))
        padded[1, numbers.shape[1] :] = torch.tensor([*waiting, *[0] * idle][:idle])
        self._numbers.copy_(padded)
        if not self._is_warm:  # loads kernels, which a capture does not allow
            self._is_warm = True
            return self._eagerly()
        if self._graph is None:
            self._graph = self._captured(pool)
        self._graph.replay()
        assert self._logits is not None
        return self._logits

    def _captured(self, pool: Any) -> torch.cuda.CUDAGraph:
        """Raises OutOfMemoryError, whichever step of it finds no memory."""
        graph = torch.cuda.CUDAGraph()
        try:
            # What other threads do on the GPU meanwhile, such as a user's reward, is their own.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                self._logits = self._eagerly()
        except torch.AcceleratorError as error:
            if "out of memory" not in str(error):
                raise
            raise torch.OutOfMemoryError(str(error)) from error
        return graph

    def _eagerly(self) -> Float[Tensor, "rows vocab"]:
        tokens, positions, roles = self._numbers
        return self._step(tokens, positions, roles, self._cache.layers, self._seen)
