"""Steps over a cache; captured ones on a GPU."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig, Precision
from rlhf_forge.backbone.loading import load_base
from rlhf_forge.generation.cache import SlotCache
from rlhf_forge.generation.steps import Steps
from tests import plain_graph, tiny


def backbone_on(device: str) -> Backbone:
    precision: Precision = "bf16" if device == "cuda" else "fp32"
    config = BackboneConfig(str(tiny.base()), precision, tiny.LORA)
    return tiny.four_roles(Backbone(load_base(config, torch.device(device)), tiny.LORA))


def cache_of(backbone: Backbone, *, slots: int = 5) -> SlotCache:
    return SlotCache(backbone.model.config, slots, backbone.device, backbone.model.dtype)


def eagerly(backbone: Backbone, cache: SlotCache, steps: Sequence[list[int]]) -> list[Tensor]:
    """Logits of rows that begin at position 0, one step after the other, by the stock decoder."""
    found = []
    for place, tokens in enumerate(steps):
        cache.reserve(place + 1)
        positions = torch.full((len(tokens), 1), place, device=backbone.device)
        with torch.no_grad(), backbone.using(ROLES[: len(tokens)]):
            given = torch.tensor(tokens, device=backbone.device)[:, None]
            mask = cache.place(0, positions)
            found.append(backbone.next_logits(given, mask, positions, cache))
    return found


ROLES = ["policy", "reward", "policy", "reference"]
# Rows leave, the last first, and the columns outgrow what was allotted.
STEPS = [[7 + 3 * row + step for row in range(4 if step < 50 else 2)] for step in range(70)]


on_both = pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
            ],
        ),
    ],
)


@on_both
def test_steps_are_those_of_the_stock_decoder(device: str) -> None:
    backbone = backbone_on(device)
    expected = eagerly(backbone, cache_of(backbone), STEPS)
    steps = Steps(backbone, cache_of(backbone))
    tolerance = 1e-5 if device == "cpu" else 0.1
    for place, tokens in enumerate(STEPS):
        found = steps(tokens, [place] * len(tokens), ROLES[: len(tokens)])
        assert_close(found, expected[place], rtol=0, atol=tolerance)


def test_a_role_may_come_later() -> None:
    backbone = backbone_on("cpu")
    cache = cache_of(backbone)
    steps = Steps(backbone, cache)
    steps([5], [0], ["policy"])
    found = steps([6, 9], [1, 0], ["policy", "reward"])
    again = Steps(backbone, cache)
    assert_close(found, again([6, 9], [1, 0], ["policy", "reward"]), rtol=0, atol=1e-6)
    alone = again([9], [0], ["reward"])
    assert alone.shape == (1, tiny.VOCAB)
    assert not torch.equal(alone[0], found[0])


@on_both
def test_a_prompt_that_waits_in_the_next_slot_is_left_as_it_is(device: str) -> None:
    backbone = backbone_on(device)
    cache = cache_of(backbone)
    prompt = tiny.rows(9).to(backbone.device)
    positions = torch.arange(9, device=backbone.device)[None]
    cache.reserve(9)
    with torch.no_grad(), backbone.using("reward"):
        backbone.next_logits(prompt, cache.place(1, positions), positions, cache)
    before = [(keys[1, :, :9].clone(), values[1, :, :9].clone()) for keys, values in cache.layers]
    steps = Steps(backbone, cache)
    for place in range(4):
        steps([5 + place], [place], ["policy"], waiting=[9])
        steps([5 + place] * 3, [place, 9, place], ["policy"] * 3)
    for (keys, values), kept in zip(cache.layers, before, strict=True):
        assert torch.equal(keys[1, :, :9], kept[0])
        assert torch.equal(values[1, :, :9], kept[1])


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("full"), torch.AcceleratorError("CUDA error: out of memory")],
)
def test_a_capture_without_memory_says_so_and_is_made_again(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    plain_graph.put_in(monkeypatch)
    backbone = backbone_on("cpu")
    steps, expected = Steps(backbone, cache_of(backbone)), Steps(backbone, cache_of(backbone))
    steps._captures = True
    steps([5], [0], ["policy"])
    expected([5], [0], ["policy"])

    def full(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "graph", full)
        with pytest.raises(torch.OutOfMemoryError):
            steps([6], [1], ["policy"])
    found = steps([6], [1], ["policy"])
    assert_close(found, expected([6], [1], ["policy"]), rtol=0, atol=1e-5)


def test_all_graphs_work_in_the_same_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    plain_graph.put_in(monkeypatch)
    backbone = backbone_on("cpu")
    steps = Steps(backbone, cache_of(backbone))
    steps._captures = True
    for rows in (1, 2, 4, 1, 2, 4):
        steps([5] * rows, [0] * rows, ["policy"] * rows)
    assert len({id(graph.pool()) for graph in plain_graph.PlainGraph.made}) == 1
    assert len(plain_graph.PlainGraph.made) == 3
