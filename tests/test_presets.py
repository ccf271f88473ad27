from pathlib import Path

import pytest
import yaml

from rlhf_forge.errors import UserError
from rlhf_forge.presets import config_folders, find_config, find_config_folder

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with two configs of its own, and the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs" / "mine").mkdir(parents=True)
    (tmp_path / "configs" / "sft.yaml").write_text("run: a\n")
    (tmp_path / "configs" / "mine" / "ppo.yaml").write_text("run: b\n")
    return tmp_path


def test_a_file_is_itself_before_a_shipped_one_of_that_name(folder: Path) -> None:
    assert find_config("sft.yaml") == Path("configs/sft.yaml")
    (folder / "sft.yaml").write_text("run: c\n")
    assert find_config("sft.yaml") == Path("sft.yaml")
    assert find_config("configs/sft.yaml") == Path("configs/sft.yaml")


def test_a_bare_name_with_its_folder_is_found(folder: Path) -> None:
    assert find_config("mine/ppo.yaml") == Path("configs/mine/ppo.yaml")


def test_a_miss_lists_what_exists_and_names_the_nearest(folder: Path) -> None:
    with pytest.raises(UserError) as caught:
        find_config("mine/pppo.yaml")
    assert str(caught.value) == "--config: no such file: mine/pppo.yaml; shipped: mine/ppo.yaml"
    assert caught.value.hint == "did you mean mine/ppo.yaml?"


@pytest.mark.parametrize("name", ["what", "where/what"])
def test_a_miss_in_no_folder_lists_the_names_at_the_top_and_the_folders(
    name: str, folder: Path
) -> None:
    with pytest.raises(UserError) as caught:
        find_config(name)
    assert str(caught.value) == (
        f"--config: no such file: {name}; shipped: dpo.yaml, ppo.yaml, reward.yaml, sft.yaml, "
        "24GiB/, hh/, mine/, quickstart-compare/, quickstart/"
    )
    assert caught.value.hint == "`python -m rlhf_forge configs` says what each is for"


def test_a_folder_is_found_with_and_without_configs_before_it(folder: Path) -> None:
    for name in ("mine", "mine/", "configs/mine", "configs/mine/"):
        assert find_config_folder(name).resolve() == (folder / "configs" / "mine").resolve()
    assert find_config_folder(str(folder)) == folder


def test_a_missing_folder_is_refused_with_one_that_exists(folder: Path) -> None:
    with pytest.raises(UserError, match="no such folder: quikstart") as caught:
        find_config_folder("quikstart")
    assert caught.value.hint is not None


def test_the_projects_own_configs_come_first() -> None:
    assert config_folders()[0] == Path("configs")


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
def test_the_chain_on_real_data_differs_from_the_quickstart_in_data_lengths_and_steps_alone(
    stage: str,
) -> None:
    sides = []
    for chain in ("quickstart", "hh"):
        model = yaml.safe_load((CONFIGS / chain / f"{stage}.yaml").read_text())["model"]
        arguments = model["init_args"]
        for key in ("total_steps", "total_iterations", "sampling", "rollout", "accept_bad_card"):
            arguments.pop(key, None)
        arguments.get("updates", {}).pop("minibatch_size", None)
        sides.append(model)
    assert sides[0] == sides[1]
