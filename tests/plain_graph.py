"""CUDA graphs in plain operations, for machines without a GPU: a replay computes once more."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from rlhf_forge.generation import steps
from rlhf_forge.generation.engine import Engine


class PlainGraph:
    """Puts new results where those captured were, and spoils those of all that share its pool."""

    made: list["PlainGraph"]

    def __init__(self) -> None:
        self._pool: object = None
        self.of: Any = None

    def pool(self) -> object:
        return self._pool

    def replay(self) -> None:
        for graph in PlainGraph.made:
            if graph._pool is self._pool:
                graph.of._logits.fill_(torch.nan)
        self.of._logits.copy_(self.of._eagerly())


@contextmanager
def capturing(graph: PlainGraph, *, pool: object, capture_error_mode: str) -> Iterator[None]:
    graph._pool = object() if pool is None else pool
    yield


def put_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `steps` capture these instead."""
    original = steps._Graph._captured

    def captured(self: Any, pool: Any) -> Any:
        graph: Any = original(self, pool)
        graph.of = self
        PlainGraph.made.append(graph)
        return graph

    PlainGraph.made = []
    monkeypatch.setattr(torch.cuda, "CUDAGraph", PlainGraph)
    monkeypatch.setattr(torch.cuda, "graph", capturing)
    monkeypatch.setattr(steps._Graph, "_captured", captured)


def captures(engine: Engine) -> Engine:
    """``engine``, which captures its steps as on a GPU."""
    assert engine._steps is not None
    engine._steps._captures = True
    return engine
