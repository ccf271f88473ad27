from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rlhf_forge.artefact import Expected
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import Precision
from rlhf_forge.data.collate import PairBatch, collate_pairs, micro_batches, pair_tokens
from rlhf_forge.data.records import Pair, assistant, user
from rlhf_forge.data.stream import Stream
from rlhf_forge.data.tokenize import PairExample
from rlhf_forge.modules.reference_log_probs import (
    Plan,
    fingerprint_of,
    first_round,
    in_order,
    reference_log_probs,
)
from tests import tiny

ENDS = ((9, 14), (6, 11), (8, 13), (12, 5), (7, 7), (10, 9), (5, 6))
EXPECTED = Expected("base", "tokenizer", "template")


def example(chosen: int, rejected: int, seed: int) -> PairExample:
    pair = Pair(user("a"), assistant("b"), assistant("c"), "here", {})
    first, second = (tiny.rows(end, seed=seed + end)[0].tolist() for end in (chosen, rejected))
    marks = [[at >= 3 for at in range(end)] for end in (chosen, rejected)]
    return PairExample(first, second, marks[0], marks[1], pair)


EXAMPLES = [example(*ends, seed=number) for number, ends in enumerate(ENDS)]


def cut(batch: PairBatch) -> list[list[int]]:
    return micro_batches(pair_tokens(batch, pads=True), max_tokens=48)


def stream(batch_size: int) -> Stream:
    return Stream(len(EXAMPLES), batch_size=batch_size, seed=0)


def opened(precision: Precision = "fp32", seed: int = 0) -> Backbone:
    backbone = tiny.open_tiny(precision)
    weights = tiny.random_weights(backbone, seed=seed)
    backbone.add_role("reference", weights, trainable=False)
    return backbone


class Asking:
    """A module that asks its reference."""

    micro_batch_tokens, max_rows = 24, 1

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def zero_grad(self, set_to_none: bool = True) -> None:
        pass


def found(
    folder: Path, plan: Plan, backbone: Backbone | None = None, *, fingerprint: str = "f" * 64
) -> Tensor:
    return reference_log_probs(
        Asking(backbone or opened()),
        EXAMPLES,
        lambda: plan,
        fingerprint=lambda plan: fingerprint,
        folder=folder,
    )


PLAN = first_round(stream(3), EXAMPLES, cut, batches=100)


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of all forwards."""
    seen: list[tuple[int, ...]] = []
    states = Backbone.states

    def counted(self: Backbone, tokens: Tensor, wanted: Tensor) -> Tensor:
        seen.append(tuple(tokens.shape))
        return states(self, tokens, wanted)

    monkeypatch.setattr(Backbone, "states", counted)
    return seen


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder, beside which nothing stands that another test left."""
    return tmp_path / "run"


# -- plans ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 7, 9])
def test_the_first_round_meets_every_pair_where_training_does(batch_size: int) -> None:
    source = stream(batch_size)
    plan = first_round(source, EXAMPLES, cut, batches=100)
    assert {number for numbers in plan for number in numbers} == set(range(len(EXAMPLES)))
    numbers = [number for _, number in next(iter(source))]
    cuts = cut(collate_pairs([(number, EXAMPLES[number]) for number in numbers]))
    assert plan[: len(cuts)] == [[numbers[row] for row in part] for part in cuts]


def test_pairs_that_a_short_run_does_not_get_to_are_left_out() -> None:
    assert sum(map(len, first_round(stream(3), EXAMPLES, cut, batches=1))) == 3
    assert sum(map(len, in_order(EXAMPLES, cut, batch_size=3, batches=1))) == 3


def test_held_out_pairs_come_in_their_order() -> None:
    plan = in_order(
        EXAMPLES, lambda batch: [list(range(len(batch.positions)))], batch_size=3, batches=9
    )
    assert plan == [[0, 1, 2], [3, 4, 5], [6]]


# -- what is computed ----------------------------------------------------------------------------


def test_each_side_of_a_pair_has_the_log_probs_of_its_response_alone(run: Path) -> None:
    backbone = opened()
    log_probs = found(run / "dpo", PLAN, backbone)
    for number, pair in enumerate(EXAMPLES):
        sides = ((pair.chosen, pair.chosen_response), (pair.rejected, pair.rejected_response))
        for side, (tokens, marks) in enumerate(sides):
            with backbone.using("reference"), torch.no_grad():
                alone, _ = backbone.log_probs(
                    torch.tensor([tokens]), torch.tensor([marks]), temperature=1.0
                )
            assert_close(log_probs[side, number], alone.sum(), rtol=1e-5, atol=1e-5)


def test_what_is_not_met_is_no_number(run: Path) -> None:
    log_probs = found(run / "dpo", [[0, 2]])
    assert log_probs[:, [0, 2]].isfinite().all()
    assert log_probs[:, [1, 3, 4, 5, 6]].isnan().all()


def test_of_a_pair_that_is_met_twice_the_first_meeting_counts(run: Path) -> None:
    once, twice = found(run / "a" / "dpo", [[4, 6]]), found(run / "b" / "dpo", [[4, 6], [0, 4]])
    assert torch.equal(once[:, 4], twice[:, 4])


# -- what is kept --------------------------------------------------------------------------------


def test_a_second_run_computes_nothing_and_has_the_same_bits(
    run: Path, forwards: list[tuple[int, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    first = found(run / "dpo", PLAN)
    assert len(forwards) == len(PLAN)
    assert "reference:" not in capsys.readouterr().err
    second = found(run / "dpo", PLAN)
    assert len(forwards) == len(PLAN), "the second run computed again"
    assert torch.equal(first, second)
    assert f"reference: log-probs of pairs read from {run}" in capsys.readouterr().err


@pytest.mark.parametrize("precision", tiny.PRECISIONS)
def test_kept_and_fresh_are_the_same_bits_on_the_same_batches(
    run: Path, precision: Precision
) -> None:
    found(run / "a" / "dpo", PLAN, opened(precision))
    kept = found(run / "a" / "dpo", PLAN, opened(precision))
    assert torch.equal(kept, found(run / "b" / "dpo", PLAN, opened(precision)))


def test_on_other_batches_only_the_last_digits_differ(run: Path) -> None:
    one_by_one = [[number] for number in range(len(EXAMPLES))]
    kept = found(run / "dpo", PLAN)
    assert_close(kept, found(run / "dpo", one_by_one, fingerprint="e" * 64), rtol=1e-5, atol=1e-5)


def test_what_another_stage_of_the_run_has_left_is_read(
    run: Path, forwards: list[tuple[int, ...]]
) -> None:
    first = found(run / "dpo.1", PLAN)
    count = len(forwards)
    assert torch.equal(found(run / "dpo", PLAN), first)
    assert len(forwards) == count


@pytest.mark.parametrize("harm", ["cut", "foreign", "of another run"])
def test_a_file_that_is_broken_or_foreign_is_said_and_computed_again(
    run: Path,
    harm: str,
    forwards: list[tuple[int, ...]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = found(run / "dpo", PLAN)
    [path] = run.glob("dpo/*.safetensors")
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-8])
    elif harm == "foreign":
        path.write_text("not weights")
    else:
        found(run / "other" / "dpo", PLAN, fingerprint="f" * 63 + "e")
        path.write_bytes(next(run.glob("other/dpo/*")).read_bytes())
    forwards.clear()
    capsys.readouterr()
    assert torch.equal(found(run / "dpo", PLAN), first)
    assert len(forwards) == len(PLAN)
    [line] = [x for x in capsys.readouterr().err.splitlines() if x.startswith(str(path))]
    assert line.endswith(": computed again")
    forwards.clear()
    assert torch.equal(found(run / "dpo", PLAN), first)
    assert not forwards


# -- fingerprint ---------------------------------------------------------------------------------


def test_all_that_log_probs_are_computed_from_counts() -> None:
    adapter = opened().weights_of("reference")

    def fingerprint(**changes: object) -> str:
        same: dict[str, object] = {
            "adapter": adapter,
            "expected": EXPECTED,
            "precision": "fp32",
            "device": tiny.CPU,
        }
        examples = changes.pop("examples", EXAMPLES)
        plan = changes.pop("plan", PLAN)
        return fingerprint_of(examples, plan, **(same | changes))  # type: ignore[arg-type]

    assert fingerprint() == fingerprint(adapter=opened().weights_of("reference"))
    seen = {
        fingerprint(),
        fingerprint(examples=EXAMPLES[::-1]),
        fingerprint(plan=PLAN[::-1]),
        fingerprint(adapter=opened(seed=1).weights_of("reference")),
        fingerprint(adapter=None),
        fingerprint(expected=Expected("other", "tokenizer", "template")),
        fingerprint(expected=Expected("base", "tokenizer", "other")),
        fingerprint(precision="bf16"),
        fingerprint(device=torch.device("meta")),
    }
    assert len(seen) == 9
