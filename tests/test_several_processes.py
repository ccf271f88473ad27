"""Two processes on one machine, with gloo, train what one process trains."""

import os
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rlhf_forge.artefact import read_manifest
from rlhf_forge.callbacks.checkpoints import AtomicCheckpointIO
from tests import several, tiny_project, watching
from tests.modules.test_dpo import CONFIG as DPO
from tests.watching import notes

pytestmark = tiny_project.QUIET
# Five rows, and three, leave the two processes with unequal shares; micro-batches are of one row
# or two.
PPO = [
    *("fit", "--config", "ppo.yaml", "--data.batch_size=6"),
    "--model.init_args.total_iterations=3",
    "--model.init_args.rollout.max_new_tokens=12",
    "--model.init_args.objective.kl_target=0.5",
    "--model.init_args.objective.kl_horizon=50",
    "--model.init_args.updates.minibatch_size=3",
    "--model.init_args.updates.micro_batch_tokens=64",
    "--model.init_args.updates.target_kl=100",
    "--model.init_args.updates.learning_rate=0.001",
    "--model.init_args.updates.value_learning_rate=0.001",
]
GROUPS = ["--model.init_args.rollout.responses_per_prompt=3"]
OF_ONE_STEP = ["--data.batch_size=5", "--model.init_args.total_steps=3"]
OF_ONE_STEP += ["--model.init_args.micro_batch_tokens=64"]
RUNS = {
    "ppo": PPO,
    "grpo": [*PPO, *GROUPS, "--model.init_args.updates.advantage=grpo"],
    "rloo": [*PPO, *GROUPS, "--model.init_args.updates.advantage=rloo"],
    "sft": ["fit", "--config", "sft.yaml", *OF_ONE_STEP],
    "reward": ["fit", "--config", "reward.yaml", *OF_ONE_STEP],
    "dpo": ["fit", "--config", "dpo.yaml", *OF_ONE_STEP],
}
FROM_X = {
    "reward": ["--model.init_args.sft=lightning_logs/x/sft/artefact"],
    "dpo": ["--model.init_args.sft=lightning_logs/x/sft/artefact"],
    "ppo": [
        "--model.init_args.sft=lightning_logs/x/sft/artefact",
        "--model.init_args.reward=lightning_logs/x/reward/artefact",
    ],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The trained project, and the working folder of all tests here."""
    folder = tiny_project.copy_trained(tmp_path_factory.mktemp("several"))
    (folder / "dpo.yaml").write_text(DPO)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def stage_of(name: str) -> str:
    return RUNS[name][2].removesuffix(".yaml")


def train(
    name: str, run: str, *more: str, processes: int = 2, watch: several.Watch = watching.noting
) -> list[int]:
    arguments = [*RUNS[name], *FROM_X.get(stage_of(name), []), "--run", run, *more]
    return several.fit(arguments, watch, processes=processes)


def trained_both_ways(name: str) -> None:
    """Runs NAME-1 by one process and NAME-2 by two, if they are not there yet."""
    for processes in (1, 2):
        run = f"{name}-{processes}"
        if not Path(f"lightning_logs/{run}").exists():
            codes = train(name, run, processes=processes)
            assert codes == [0] * processes, several.told_by(processes - 1)


def weights(run: str, stage: str) -> Tensor:
    folder = Path(f"lightning_logs/{run}/{stage}/artefact")
    tensors = [t for path in sorted(folder.glob("*.safetensors")) for t in load_file(path).values()]
    return torch.cat([tensor.flatten() for tensor in tensors])


def trained_tensors(run: str, stage: str) -> Tensor:
    """All that trains, the critic too, as the last checkpoint has it."""
    checkpoint = AtomicCheckpointIO().load_checkpoint(last_of(run, stage))
    return torch.cat([tensor.flatten() for tensor in checkpoint["state_dict"].values()])


def last_of(run: str, stage: str) -> Path:
    return Path(f"lightning_logs/{run}/{stage}/checkpoints/last.ckpt")


def adapter_hash(run: str, stage: str) -> str:
    path = Path(f"lightning_logs/{run}/{stage}/artefact/adapter_model.safetensors")
    return sha256(path.read_bytes()).hexdigest()


# -- the same as one process ------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["ppo", "grpo", pytest.param("rloo", marks=pytest.mark.slow), "sft", "reward", "dpo"]
)
def test_after_three_steps_the_weights_are_those_of_one_process(name: str, place: Path) -> None:
    trained_both_ways(name)
    stage = stage_of(name)
    one, two = (trained_tensors(f"{name}-{processes}", stage) for processes in (1, 2))
    start = trained_tensors("x", "sft") if name == "sft" else None
    assert (one - two).norm() <= 1e-5 * one.norm()
    assert (weights(f"{name}-1", stage) - weights(f"{name}-2", stage)).norm() <= 1e-5 * one.norm()
    assert start is None or not torch.equal(start, one)


@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_the_rollouts_are_the_same_tokens(name: str, place: Path) -> None:
    trained_both_ways(name)
    whole = notes(f"{name}-1", 0)
    assert len(whole) == 3
    assert len({tuple(note["mask"].sum(1).tolist()) for note in whole}) == 3
    for number in (0, 1):
        for one, two in zip(whole, notes(f"{name}-2", number), strict=True):
            assert torch.equal(one["tokens"], two["tokens"])
            assert torch.equal(one["mask"], two["mask"])


@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_advantages_are_estimated_and_whitened_over_the_whole_rollout(
    name: str, place: Path
) -> None:
    trained_both_ways(name)
    for one, two in zip(notes(f"{name}-1", 0), notes(f"{name}-2", 1), strict=True):
        assert one["advantages"].abs().max() > 0.1
        assert (one["advantages"] - two["advantages"]).abs().max() < 1e-4


def test_the_price_of_kl_is_steered_by_the_kl_of_all(place: Path) -> None:
    trained_both_ways("ppo")
    prices = [[note["kl_coef"] for note in notes("ppo-2", number)] for number in (0, 1)]
    assert prices[0] == prices[1]
    assert len(set(prices[0])) == 3
    assert prices[0] == pytest.approx([note["kl_coef"] for note in notes("ppo-1", 0)], rel=1e-5)


def test_metrics_are_those_of_one_process(place: Path) -> None:
    for name in ("ppo", "sft", "reward", "dpo"):
        trained_both_ways(name)
        one, two = (
            read_manifest(Path(f"lightning_logs/{name}-{n}/{name}/artefact")).metrics
            for n in (1, 2)
        )
        assert one.keys() == two.keys()
        assert {"val/loss", "val/score"} & one.keys()
        for tag in (tag for tag in one if not tag.startswith("time/")):
            assert two[tag] == pytest.approx(one[tag], rel=1e-3, abs=1e-5), tag


def test_a_reward_model_has_the_scale_that_one_process_gives_it(place: Path) -> None:
    trained_both_ways("reward")
    one, two = (read_manifest(Path(f"lightning_logs/reward-{n}/reward/artefact")) for n in (1, 2))
    assert one.reward_std != 1.0
    assert two.reward_mean == pytest.approx(one.reward_mean, rel=1e-4, abs=1e-6)
    assert two.reward_std == pytest.approx(one.reward_std, rel=1e-4)


# -- the same on both processes ---------------------------------------------------------------


def test_both_processes_have_the_same_bits_after_every_iteration(place: Path) -> None:
    for name in ("ppo", "grpo"):
        trained_both_ways(name)
        hashes = [[note["weights"] for note in notes(f"{name}-2", number)] for number in (0, 1)]
        assert hashes[0] == hashes[1]
        assert len(set(hashes[0])) == 3


def test_both_leave_a_rollout_at_the_same_step_where_one_has_no_rows(place: Path) -> None:
    alone = ["--model.init_args.updates.minibatch_size=1"]
    alone += ["--model.init_args.updates.target_kl=1e-12"]
    counts = {}
    for processes in (1, 2):
        run = f"stop-{processes}"
        assert train("ppo", run, *alone, processes=processes) == [0] * processes
        for number in range(processes):
            seen = notes(run, number)
            counts[processes, number] = [len(note["updates"]) for note in seen]
            assert not any(note["updates"][-1]["taken"] for note in seen)
    assert counts[2, 0] == counts[2, 1] == counts[1, 0] == [2, 2, 2]


def test_a_gradient_that_is_not_finite_on_one_is_no_step_on_both(place: Path) -> None:
    assert train("ppo", "poison", watch=watching.poisoned) == [0, 0]
    seen = [notes("poison", number) for number in (0, 1)]
    taken = [[[u["taken"] for u in note["updates"]] for note in each] for each in seen]
    assert taken[0] == taken[1]
    assert taken[0] == [[True] * 4, [False, True, True, True], [True] * 4]
    assert [note["weights"] for note in seen[0]] == [note["weights"] for note in seen[1]]


def test_a_function_of_the_reward_is_called_by_one_process_with_all_responses(place: Path) -> None:
    mine = "--model.init_args.reward=tests.watching:lengths"
    assert train("ppo", "function", mine, "--trainer.limit_val_batches=0") == [0, 0]
    assert Path("called-0.txt").read_text().split() == ["6"] * 3
    assert not Path("called-1.txt").exists()


def test_where_it_fails_both_end_in_one_line(place: Path) -> None:
    mine = "--model.init_args.reward=tests.watching:fails"
    assert train("ppo", "failing", mine) == [2, 2]
    for number, who in enumerate(("", "process 1: ")):
        told = several.told_by(number)
        assert f"error: {who}reward, iteration 0: tests.watching:fails: raised RuntimeError" in told
        assert "Traceback" not in told


# -- going on ---------------------------------------------------------------------------------


def test_a_run_that_goes_on_ends_with_the_very_same_weights(place: Path) -> None:
    trained_both_ways("ppo")
    every = ["--checkpoint_every=1"]
    assert train("ppo", "going", *every, watch=watching.killed) == [1, 1]
    assert not Path("lightning_logs/going/ppo/artefact").exists()
    shutil.copytree("lightning_logs/going", "lightning_logs/fewer")
    assert train("ppo", "going", *every, "--ckpt_path=last") == [0, 0]
    assert adapter_hash("going", "ppo") == adapter_hash("ppo-2", "ppo")
    assert torch.equal(trained_tensors("going", "ppo"), trained_tensors("ppo-2", "ppo"))


def test_a_run_does_not_go_on_with_another_number_of_processes(place: Path) -> None:
    assert train("ppo", "fewer", "--ckpt_path=last", processes=1) == [2]
    told = several.told_by(0)
    assert "error: ckpt_path: written by a run of 2 processes, and this one has 1" in told
    assert "hint: go on with as many" in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("watch", "status"), [(watching.terminated, 143), (watching.interrupted, 130)]
)
def test_both_leave_behind_the_same_step_though_one_alone_was_told(
    watch: several.Watch, status: int, place: Path
) -> None:
    run = f"told-{status}"
    assert train("sft", run, watch=watch) == [status, status]
    checkpoint = AtomicCheckpointIO().load_checkpoint(last_of(run, "sft"))
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    assert progress["total"]["processed"] == 2
    assert not Path(f"lightning_logs/{run}/sft/artefact").exists()
    assert "Traceback" not in several.told_by(0) + several.told_by(1)


# -- what is written --------------------------------------------------------------------------


def test_files_are_written_once(place: Path) -> None:
    trained_both_ways("ppo")
    one, two = (
        Path(f"lightning_logs/ppo-{n}/ppo/samples.jsonl").read_text().splitlines() for n in (1, 2)
    )
    assert one == two
    files = [sorted(p.name for p in Path(f"lightning_logs/ppo-{n}/ppo").rglob("*")) for n in (1, 2)]
    events = [sum(name.startswith("events") for name in names) for names in files]
    assert events == [1, 1]
    assert [n for n in files[0] if "events" not in n] == [n for n in files[1] if "events" not in n]


def test_every_held_out_prompt_is_answered_once_and_as_one_process_does(place: Path) -> None:
    trained_both_ways("ppo")
    answers = []
    for processes in (1, 2):
        given = ["predict", *PPO[1:], *FROM_X["ppo"], "--run", "ppo-2"]
        assert several.fit(given, watching.ends_often, processes=processes) == [0] * processes
        answers.append(Path("lightning_logs/ppo-2/ppo/predictions.jsonl").read_text())
    assert len(answers[0].splitlines()) == 10
    assert answers[0] == answers[1]


def test_the_environment_of_the_tests_is_that_of_one_process() -> None:
    assert "RANK" not in os.environ
