"""How a server is told what it may."""

from pathlib import Path
from typing import Any

import pytest

from rlhf_forge.errors import UserError
from rlhf_forge.serve.settings import KEYS, Settings, read_keys, read_settings


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEYS, raising=False)


def test_what_is_typed_goes_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("port: 9000\nslots: 4\nhosts: [chat.example]\n")
    settings = read_settings(file, {"slots": 8, "queue": None})
    assert settings == Settings(port=9000, slots=8, hosts=["chat.example"])
    assert settings.capacity == 8 + 64


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("slots: 0", "serve.yaml: slots: "),
        ("slots: many", "serve.yaml: slots: "),
        ("slot: 4", "serve.yaml: slot: no such key"),
        ("host: example.com", "serve.yaml: host: "),
        ("deadline: .nan", "serve.yaml: deadline: "),
        ("[1, 2]", "serve.yaml: holds a list, where a config has keys"),
        ("a: [", "not YAML"),
        ("slots: 4\nqueue: 2\nslots: 8", "serve.yaml:3:1: slots stands there twice"),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_key(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        read_settings(file, {})
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mistake_that_was_typed_is_told_as_an_option() -> None:
    with pytest.raises(UserError, match=r"--port: .*, got 80"):
        read_settings(None, {"port": 80})


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_settings(tmp_path / "none.yaml", {})


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_other_machines_are_let_in_with_a_key_only(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="there is no key"):
        read_keys(Settings(host=host))
    monkeypatch.setenv(KEYS, "one, two")
    assert read_keys(Settings(host=host)) == (b"one", b"two")


def test_keys_stand_in_a_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text("one\n\n two \n")
    monkeypatch.setenv(KEYS, "three")
    assert set(read_keys(Settings(keys_file=str(file)))) == {b"one", b"two", b"three"}
    with pytest.raises(UserError, match="cannot be read"):
        read_keys(Settings(keys_file=str(tmp_path / "none")))
