"""Rows that enter and leave a running batch, and what each of them may not notice."""

from typing import Any

import pytest
import torch
from torch.nn import functional

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.generation import cache as cache_module
from rlhf_forge.generation import engine as engine_module
from rlhf_forge.generation import steps as steps_module
from rlhf_forge.generation.decode import generate
from rlhf_forge.generation.engine import Drawn, Engine, Entry, Request
from rlhf_forge.generation.sampler import Sampling, draw, uniform_draws
from tests import plain_graph, tiny

ROLES = ("policy", "reference", "reward", "base")
PROMPTS = [row[row > 0].tolist() for row in tiny.rows(9, 14, 3, 11, 1, 6, 5, 8)]
LENGTHS = (3, 9, 1, 7, 12, 2, 5, 4)
REQUESTS = [Request(prompt, ROLES[row % 4], (0, 0, row)) for row, prompt in enumerate(PROMPTS)]
EACH = [
    Sampling(temperature=(0.0, 1.0, 0.7)[row % 3], max_new_tokens=n)
    for row, n in enumerate(LENGTHS)
]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    backbone = tiny.four_roles(tiny.open_tiny())
    backbone.add_bare_role("base")
    return backbone


def entry(row: int) -> Entry:
    return Entry(row, REQUESTS[row], EACH[row])


@torch.no_grad()
def plainly(backbone: Backbone, request: Request, sampling: Sampling, ends: set[int]) -> list[int]:
    """One response by the training forward over all tokens so far: no cache, no batch."""
    [uniforms] = torch.from_numpy(uniform_draws([request.key], sampling.max_new_tokens))
    tokens = list(request.prompt)
    for step in range(sampling.max_new_tokens):
        with backbone.using(request.role):
            hidden = backbone.hidden(torch.tensor([tokens]))[:, -1]
        logits = backbone.model.lm_head(hidden).float()
        tokens.append(int(draw(logits, uniforms[step : step + 1], sampling)))
        if tokens[-1] in ends:
            break
    return tokens[len(request.prompt) :]


def drawn_by(engine: Engine) -> dict[int, list[int]]:
    """All tokens from now to the end, by row."""
    tokens: dict[int, list[int]] = {}
    while engine.running:
        for one in engine.step():
            tokens.setdefault(one.name, []).append(one.token)
    return tokens


@pytest.mark.parametrize("max_rows", [1, 2, 3, 8])
def test_rows_that_refill_slots_generate_as_a_plain_loop_does(
    backbone: Backbone, max_rows: int
) -> None:
    endless = [plainly(backbone, r, s, set()) for r, s in zip(REQUESTS, EACH, strict=True)]
    ends = {endless[1][4], endless[4][6]}
    expected = [plainly(backbone, r, s, ends) for r, s in zip(REQUESTS, EACH, strict=True)]
    responses = generate(backbone, REQUESTS, EACH, ends, max_rows=max_rows)
    assert [response.tokens for response in responses] == expected
    assert any(response.finished for response in responses)
    assert not all(response.finished for response in responses)


@pytest.mark.parametrize("tokens", [1, 15, 30])
def test_prompts_that_are_read_a_few_at_a_time_generate_the_same(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    expected = [plainly(backbone, r, s, set()) for r, s in zip(REQUESTS, EACH, strict=True)]
    read: list[int] = []
    original = backbone.next_logits

    def counted(ids: torch.Tensor, *others: Any) -> torch.Tensor:
        read.append(ids.numel())
        return original(ids, *others)

    monkeypatch.setattr(backbone, "next_logits", counted)
    monkeypatch.setattr(engine_module, "PREFILL_TOKENS", tokens)
    responses = generate(backbone, REQUESTS, EACH, [], max_rows=8)
    assert [response.tokens for response in responses] == expected
    assert len(read) > 1
    assert all(size <= max(tokens, 14) for size in read)


@pytest.mark.parametrize("slots", [3, 4, 7])
def test_captured_steps_generate_as_a_plain_loop_does(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, slots: int
) -> None:
    plain_graph.put_in(monkeypatch)
    monkeypatch.setattr(steps_module, "COLUMNS_SEEN", 8)
    monkeypatch.setattr(cache_module, "COLUMNS", 4)
    expected = [plainly(backbone, r, s, set()) for r, s in zip(REQUESTS, EACH, strict=True)]
    engine = plain_graph.captures(Engine(backbone, slots=slots, eos_ids=[]))
    waiting, tokens = [*range(len(REQUESTS))], dict[int, list[int]]()
    while waiting or engine.running:
        # Now and then one enters, and two: those that wait lie in slots that a step computes too.
        for count in (1, 2):
            if len(waiting) >= count and engine.free >= count:
                engine.add([entry(waiting.pop(0)) for _ in range(count)])
        for one in engine.step():
            tokens.setdefault(one.name, []).append(one.token)
    assert [tokens[row] for row in range(len(REQUESTS))] == expected
    assert len(plain_graph.PlainGraph.made) > 1


def test_a_row_may_enter_at_any_step(backbone: Backbone) -> None:
    engine = Engine(backbone, slots=4, eos_ids=[])
    engine.add([entry(4), entry(1)])
    early = [engine.step(), engine.step()]
    engine.add([entry(3)])
    engine.add([entry(0)])
    assert engine.running == 4
    late = drawn_by(engine)
    tokens = {row: [d.token for step in early for d in step if d.name == row] for row in (4, 1)}
    for row in (4, 1, 3, 0):
        got = tokens.get(row, []) + late[row]
        assert got == plainly(backbone, REQUESTS[row], EACH[row], set())


@pytest.mark.parametrize("fails_at", [0, 1, 3])
def test_rows_go_on_where_there_was_no_memory_for_another(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    plain_graph.put_in(monkeypatch)
    engine = plain_graph.captures(Engine(backbone, slots=2, eos_ids=[]))
    engine.add([entry(4)])
    tokens = [one.token for _ in range(4) for one in engine.step()]
    captured = len(plain_graph.PlainGraph.made)
    original, calls = functional.pad, list[int]()

    def full(*given: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) > fails_at:
            raise torch.OutOfMemoryError
        return original(*given)

    with monkeypatch.context() as patch:
        patch.setattr(functional, "pad", full)
        with pytest.raises(torch.OutOfMemoryError):
            engine.add([Entry("long", Request([5] * 99, "policy", (0,)), EACH[0])])
    tokens += drawn_by(engine)[4]
    assert tokens == plainly(backbone, REQUESTS[4], EACH[4], set())
    # What was captured before points to where the first layers' keys and values no longer are.
    assert len(plain_graph.PlainGraph.made) == captured + 1


def test_why_a_row_ends_is_told_with_its_last_token(backbone: Backbone) -> None:
    tokens = plainly(backbone, REQUESTS[1], EACH[1], set())
    engine = Engine(backbone, slots=2, eos_ids=[tokens[2]])
    engine.add([entry(1), entry(0)])
    told: list[Drawn] = []
    while engine.running:
        told += engine.step()
    assert [one.ended for one in told if one.name == 1] == [None, None, "stop"]
    assert [one.ended for one in told if one.name == 0] == [None, None, "length"]


def test_a_row_that_is_dropped_frees_its_slot_at_the_next_step(backbone: Backbone) -> None:
    engine = Engine(backbone, slots=3, eos_ids=[])
    engine.add([entry(1), entry(3), entry(4)])
    first = [one for one in engine.step() if one.name == 4]
    engine.drop([1])
    assert engine.names == [3, 4]
    second = engine.step()
    assert {one.name for one in second} == {3, 4}
    assert engine.free == 1
    rest = drawn_by(engine)
    tokens = [one.token for one in [*first, *second] if one.name == 4] + rest[4]
    assert tokens == plainly(backbone, REQUESTS[4], EACH[4], set())


def test_what_a_slot_held_before_changes_nothing(backbone: Backbone) -> None:
    engine = Engine(backbone, slots=1, eos_ids=[])
    for row in (1, 4, 2, 0):  # longer and shorter ones in turn
        engine.add([entry(row)])
        assert drawn_by(engine)[row] == plainly(backbone, REQUESTS[row], EACH[row], set())


def test_log_probabilities_are_those_of_the_model_at_temperature_one(backbone: Backbone) -> None:
    engine = Engine(backbone, slots=2, eos_ids=[])
    told = Sampling(temperature=0.5, max_new_tokens=4)
    engine.add([Entry(0, REQUESTS[0], told, top=3), entry(3)])
    steps = [one for _ in range(4) for one in engine.step()]
    assert all(one.likelihood is None for one in steps if one.name == 3)
    drawn = [one for one in steps if one.name == 0]
    tokens = torch.tensor([[*PROMPTS[0], *(one.token for one in drawn)]])
    targets = torch.arange(tokens.shape[1])[None] >= len(PROMPTS[0])
    with torch.no_grad(), backbone.using("policy"):
        expected, _ = backbone.log_probs(tokens, targets, temperature=1.0)
    for one, log_prob in zip(drawn, expected[targets].tolist(), strict=True):
        assert one.likelihood is not None
        assert one.likelihood.drawn == pytest.approx(log_prob, abs=1e-4)
        assert len(one.likelihood.top) == 3
        assert one.likelihood.top == sorted(one.likelihood.top, key=lambda pair: -pair[1])


def test_more_rows_than_slots_are_refused(backbone: Backbone) -> None:
    engine = Engine(backbone, slots=1, eos_ids=[])
    with pytest.raises(ValueError, match="2 rows for 1 free slots"):
        engine.add([entry(0), entry(1)])


def test_a_cleared_engine_is_as_new(backbone: Backbone) -> None:
    engine = Engine(backbone, slots=2, eos_ids=[])
    engine.add([entry(0), entry(1)])
    engine.step()
    engine.clear()
    assert (engine.running, engine.free, engine.held) == (0, 2, 0)
    assert engine.step() == []
    engine.add([entry(1)])
    assert drawn_by(engine)[1] == plainly(backbone, REQUESTS[1], EACH[1], set())
