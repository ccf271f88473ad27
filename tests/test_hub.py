from pathlib import Path

import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from rlhf_forge import hub
from rlhf_forge.errors import UserError
from rlhf_forge.hub import base_folder, base_here, tokenizer_folder


def refusal(name: str) -> UserError:
    with pytest.raises(UserError) as caught:
        base_folder(name)
    assert "\n" not in str(caught.value)
    assert caught.value.hint is None or "\n" not in caught.value.hint
    return caught.value


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert base_folder(str(tmp_path)) == tmp_path
    assert tokenizer_folder(str(tmp_path)) == tmp_path


def test_a_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "base").mkdir()
    assert base_folder("~/base") == tmp_path / "base"


def test_a_package_folder_lies_in_the_package() -> None:
    assert (base_folder("package:toy_world") / "recipe.py").is_file()
    assert "holds no such folder" in str(refusal("package:toy_world/nowhere"))


@pytest.mark.parametrize(
    "name", ["nowhere", "/no/such/folder", "./base", "../base", "a/b/c", "--x/y", "", "base/"]
)
def test_what_is_neither_a_folder_nor_a_hub_name_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = refusal(name)
    assert "no such folder, and not a hub name" in str(error)
    assert error.hint is not None


def test_without_a_network_the_way_to_get_the_model_is_told() -> None:
    error = refusal("nobody/tiny-model-that-is-not-here")
    assert "not on this machine, and the hub cannot be reached" in str(error)
    assert error.hint is not None
    assert "hf download nobody/tiny-model-that-is-not-here" in error.hint


@pytest.mark.parametrize(
    ("kind", "message", "hint"),
    [
        (GatedRepoError, "only to accounts that accepted its terms", "hf auth login"),
        (RepositoryNotFoundError, "no such model on the hub", "check the spelling"),
    ],
)
def test_what_the_hub_refuses_is_told_with_the_way_out(
    kind: type[GatedRepoError], message: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise kind.__new__(kind)  # its __init__ wants an answer of the hub

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    error = refusal("mistralai/Mistral-7B-v0.3")
    assert message in str(error)
    assert error.hint is not None
    assert hint in error.hint


def test_only_safetensors_and_json_are_downloaded_and_for_a_tokenizer_no_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[dict[str, list[str]]] = []

    def record(_: str, **patterns: list[str]) -> str:
        asked.append(patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", record)
    base_folder("mistralai/Mistral-7B-v0.3")
    tokenizer_folder("mistralai/Mistral-7B-v0.3")
    whole, tokenizer = (call["allow_patterns"] for call in asked)
    assert "*.safetensors" in whole
    assert not any(
        pattern.endswith((".bin", ".py", ".pt", "*")) for pattern in whole if "." in pattern[-4:]
    )
    assert "*.safetensors" not in tokenizer
    assert all(call["ignore_patterns"] == hub.SECOND_COPIES for call in asked)


def test_what_is_here_is_found_without_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(name: str, **options: object) -> str:
        assert options == {"local_files_only": True}
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", ask)
    assert base_here(str(tmp_path)) == str(tmp_path)
    assert base_here("package:toy_world") == "package:toy_world"
    assert base_here("some/model") == str(tmp_path)


def test_what_is_not_here_is_told_with_how_to_get_it() -> None:
    with pytest.raises(UserError, match=r"^base some/model: not on this machine$") as caught:
        base_here("some/model")
    assert "hf download some/model" in str(caught.value.hint)
