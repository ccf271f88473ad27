"""Talking to a policy in a terminal and through a pipe."""

import io
import sys
from pathlib import Path

import pytest
from typing_extensions import override

from rlhf_forge.commands.chat import chat
from rlhf_forge.errors import UserError
from tests.tiny_run import write_base, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("chat")
    return write_run(root / "tiny", base=write_base(root / "base"))


class Terminal(io.StringIO):
    """Input that a person types."""

    @override
    def isatty(self) -> bool:
        return True


@pytest.fixture
def say(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> "Say":
    return Say(run, monkeypatch, capsys)


class Say:
    """Runs ``chat`` on given input; gives what it wrote to stdout and stderr."""

    def __init__(
        self, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.run, self.monkeypatch, self.capsys = run, monkeypatch, capsys

    def __call__(self, source: io.StringIO, *, path: str = "", seed: int = 1) -> tuple[str, str]:
        self.monkeypatch.setattr(sys, "stdin", source)
        assert chat(str(self.run / path), max_new_tokens=6, seed=seed) == 0
        told = self.capsys.readouterr()
        return told.out, told.err


def test_each_line_gets_one_line(say: Say) -> None:
    out, err = say(io.StringIO("Hello\n\nIs snow white?"))
    lines = out.split("\n")
    assert len(lines) == 4
    assert lines[0]
    assert lines[1] == ""
    assert lines[2]
    assert "3 lines, 1 empty, answered by ppo" in err


def test_the_same_seed_gives_the_same_answers(say: Say) -> None:
    lines = "Hello\nHello\n"
    first, _ = say(io.StringIO(lines), seed=1)
    again, _ = say(io.StringIO(lines), seed=1)
    other, _ = say(io.StringIO(lines), seed=2)
    assert first == again != other
    assert first.split("\n")[0] != first.split("\n")[1]


def test_the_artefact_given_answers(say: Say) -> None:
    out, err = say(io.StringIO("Hello\n"), path="sft/artefact")
    assert "answered by sft" in err
    assert out != say(io.StringIO("Hello\n"))[0]


def test_a_terminal_talks_forgets_and_quits(say: Say) -> None:
    out, err = say(Terminal("Hello\n/reset\nHello\n/what\n/quit\nnever read\n"))
    assert len(out.splitlines()) >= 2
    assert "no command /what" in err
    assert "python -m rlhf_forge serve" in err


def test_a_terminal_remembers_what_was_said(say: Say) -> None:
    remembered, _ = say(Terminal("Hello\nHello\n"))
    forgotten, _ = say(Terminal("Hello\n/reset\nHello\n"))
    assert remembered != forgotten


def test_a_reward_model_does_not_talk(run: Path) -> None:
    with pytest.raises(UserError, match="gives scores"):
        chat(str(run / "reward" / "artefact"))


@pytest.mark.parametrize(
    ("keys", "name"),
    [({"temperature": -1.0}, "temperature"), ({"max_new_tokens": 0}, "max_new_tokens")],
)
def test_impossible_sampling_is_refused_by_name(
    run: Path, keys: dict[str, float], name: str
) -> None:
    with pytest.raises(UserError, match=name):
        chat(str(run), **keys)  # type: ignore[arg-type]  # one wrong value at a time


def test_a_line_longer_than_the_context_is_named(say: Say) -> None:
    with pytest.raises(UserError, match=r"line 2: .* the context 256"):
        say(io.StringIO("Hello\n" + "word " * 300 + "\n"))
