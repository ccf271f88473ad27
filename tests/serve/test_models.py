"""Which artefacts are served together, under which names."""

import json
import shutil
from pathlib import Path

import pytest

from rlhf_forge.errors import UserError
from rlhf_forge.serve.models import load_models, only, open_models
from tests.tiny import CPU
from tests.tiny_run import CONTEXT, write_base, write_run


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def run(base: Path) -> Path:
    return write_run(base.parent / "tiny", base=base)


def test_a_run_is_served_as_its_base_its_policies_and_its_reward_model(run: Path) -> None:
    models = open_models([str(run)])
    assert models.policies == ("base", "sft", "ppo")
    assert models.reward_models == ("reward",)
    assert models.context == CONTEXT
    assert models.weights.base.precision == "fp32"


def test_an_artefact_and_a_stage_folder_are_served_too(run: Path) -> None:
    models = open_models([str(run / "ppo" / "artefact"), str(run / "reward")])
    assert models.policies == ("base", "ppo")
    assert models.reward_models == ("reward",)


def test_stages_of_two_runs_are_called_by_run_and_stage(run: Path, base: Path) -> None:
    other = write_run(base.parent / "v1.5", base=base)
    models = open_models([str(run), str(other / "ppo")])
    assert models.policies == ("base", "sft", "tiny-ppo", "v1-5-ppo")
    assert load_models(models.weights, CPU).roles >= {"v1-5-ppo"}


def test_policies_of_one_stage_are_called_as_in_their_run_and_ppo_is_the_last(
    base: Path, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", base=base)
    for name in ("rloo", "a.b", "ppo.1"):
        shutil.copytree(run / "ppo", run / name)
    models = open_models([str(run)])
    assert models.policies == ("base", "sft", "a-b", "rloo", "ppo")
    assert models.reward_models == ("reward",)
    assert load_models(models.weights, CPU).roles >= {"a-b", "rloo", "ppo"}


def test_the_same_artefact_twice_is_refused(run: Path) -> None:
    with pytest.raises(UserError, match="would both be called tiny-sft"):
        open_models([str(run / "sft"), str(run / "sft" / "artefact")])


def test_a_folder_without_artefacts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no artefact here"):
        open_models([str(tmp_path)])


def test_an_artefact_of_another_base_is_refused(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", base=write_base(tmp_path / "base", seed=1))
    with pytest.raises(UserError, match="made with another base"):
        open_models([str(run), str(other / "ppo")])


def test_a_template_changed_after_training_is_refused(base: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", base=base)
    path = run / "sft" / "artefact" / "chat_template.jinja"
    path.write_text(path.read_text().replace("[INST] ", "[INST]  "))
    with pytest.raises(UserError, match="made with another chat template"):
        open_models([str(run / "sft")])


def test_artefacts_of_two_precisions_need_a_choice(base: Path, run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "low", base=base, precision="bf16")
    paths = [str(run / "sft"), str(other / "ppo")]
    with pytest.raises(UserError, match="bf16, fp32"):
        open_models(paths)
    assert open_models(paths, precision="bf16").weights.base.precision == "bf16"


def test_a_reward_model_that_reads_likelihoods_brings_its_sft_model(
    base: Path, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", base=base, likelihood=0.5)
    models = open_models([str(run / "reward")])
    assert models.weights.adapters["reference"] == run / "sft" / "artefact"
    assert models.policies == ("base",)


def test_a_reward_model_without_the_sft_model_that_it_reads_is_refused(
    base: Path, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", base=base, likelihood=0.5)
    path = run / "sft" / "artefact" / "forge.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fingerprint": "another"}))
    with pytest.raises(UserError, match="the SFT artefact it was trained from"):
        open_models([str(run / "reward")])


def without_parents(reward: Path) -> Path:
    """The reward artefact as one that was trained from the bare base."""
    path = reward / "artefact" / "forge.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"parents": {}}))
    return reward


def test_a_reward_model_that_reads_likelihoods_of_the_bare_base_needs_no_sft_model(
    base: Path, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", base=base, likelihood=0.5)
    models = open_models([str(without_parents(run / "reward"))])
    assert models.weights.adapters["reference"] is None
    assert load_models(models.weights, CPU).roles == {"base", "reward", "reference"}


def test_reward_models_that_read_likelihoods_of_two_models_are_refused(
    base: Path, tmp_path: Path
) -> None:
    one = write_run(tmp_path / "one", base=base, likelihood=0.5)
    two = write_run(tmp_path / "two", base=base, likelihood=0.5)
    assert open_models([str(one)]).reward_models == ("reward",)
    for bare in (False, True):
        folder = without_parents(two / "reward") if bare else two / "reward"
        with pytest.raises(UserError, match="cannot be served together"):
            open_models([str(one), str(folder)])


def test_only_one_model_is_loaded_when_one_is_asked_for(run: Path) -> None:
    models = only(open_models([str(run)]), "ppo")
    assert load_models(models.weights, CPU).roles == {"ppo"}
