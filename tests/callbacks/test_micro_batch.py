"""How many tokens go through a forward at once, where nobody says."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf_forge.__main__ import main
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig
from rlhf_forge.backbone.loading import load_base
from rlhf_forge.callbacks import micro_batch
from rlhf_forge.callbacks.checkpoints import AtomicCheckpointIO, IterationCheckpoint
from rlhf_forge.callbacks.micro_batch import KNOWN, MOST, largest_that_fits
from rlhf_forge.modules.settings import UpdateSettings, at_first
from tests.tiny import CPU, LORA, base
from tests.tiny_project import QUIET, told

pytestmark = QUIET
LAST = Path("lightning_logs/x/sft/checkpoints/last.ckpt")
AUTO = ["fit", "--config", "sft.yaml", "--model.init_args.micro_batch_tokens", "auto"]
AUTO += ["--trainer.limit_val_batches", "0", "--checkpoint_every", "1"]


@contextmanager
def room_for(tokens: int) -> Iterator[list[int]]:
    """Forwards of more tokens run out of memory; told are the sizes of all."""
    states, tried = Backbone.states, []

    def limited(self: Backbone, batch: Tensor, wanted: Tensor) -> Tensor:
        tried.append(batch.numel())
        if batch.numel() > tokens:
            raise torch.OutOfMemoryError
        return states(self, batch, wanted)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Backbone, "states", limited)
        patch.setattr("rlhf_forge.callbacks.artefact_writer._reported", lambda module: None)
        yield tried


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU is one whose memory may run out, and the search begins at 512 tokens: eight rows."""
    monkeypatch.setattr(micro_batch, "_may_be_tried", lambda device: True)
    monkeypatch.setattr(micro_batch, "MOST", 512)


def test_auto_starts_as_most_machines_can_and_a_number_is_taken_as_it_is() -> None:
    assert at_first("auto") == UpdateSettings(micro_batch_tokens="auto").tokens_at_first == 8192
    assert at_first(12) == UpdateSettings(micro_batch_tokens=12).tokens_at_first == 12
    with pytest.raises(ValueError, match="micro_batch_tokens must be 1 or more, got 0"):
        at_first(0)


def test_the_largest_that_fits_is_found_from_above_and_leaves_nothing_behind() -> None:
    backbone = policy()
    with room_for(3000) as tried:
        assert largest_that_fits(backbone, "policy", 100) == MOST // 32
    assert tried == [MOST // half // 100 * 100 for half in (1, 2, 4, 8, 16, 32)]
    assert all(p.grad is None for p in backbone.parameters())


def test_where_no_two_rows_fit_there_is_room_for_one() -> None:
    with room_for(0) as tried:
        assert largest_that_fits(policy(), "policy", 5000) // 5000 == 1
        assert largest_that_fits(policy(), "policy", 10**6) == 10**6
    assert min(tried) == 15000


def test_a_run_finds_it_once_the_next_one_knows_it_and_each_says_so(
    trained: Path, gpu: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with room_for(200) as tried:
        assert main(AUTO) == 0
        assert tried[:3] == [512, 256, 128]
        said = "micro_batch_tokens: 128 (auto: what fits of rows of 64 tokens)"
        assert said in capsys.readouterr().err
        assert list(json.loads(KNOWN.read_text()).values()) == [128]
        tried.clear()
        assert main(AUTO) == 0
    assert f"128 (auto: found by an earlier run, see {KNOWN})" in capsys.readouterr().err
    assert max(tried) <= 128


def test_a_run_that_goes_on_has_the_size_of_its_checkpoint(
    trained: Path, gpu: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with room_for(200), dying(), pytest.raises(InterruptedError):
        main(AUTO)
    KNOWN.unlink()
    assert AtomicCheckpointIO().load_checkpoint(LAST)["sizes"][0] == 128
    with room_for(10**6) as tried:
        assert main([*AUTO, "--ckpt_path", "last"]) == 0
    assert "micro_batch_tokens: 128 (auto: from the checkpoint)" in capsys.readouterr().err
    assert max(tried) <= 128


def test_a_cpu_is_not_tried(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with room_for(10**6) as tried:
        assert main(AUTO) == 0
    assert "micro_batch_tokens: 8192 (auto: as on any CPU)" in capsys.readouterr().err
    assert max(tried) < 512
    assert not KNOWN.exists()


def test_a_file_of_sizes_that_is_none_is_refused(
    trained: Path, gpu: None, capsys: pytest.CaptureFixture[str]
) -> None:
    KNOWN.write_text("[1]")
    error, hint = told(AUTO, capsys)
    assert error == f"{KNOWN}: not a file of sizes"
    assert hint == "delete it: they are found anew"


def policy() -> Backbone:
    backbone = Backbone(load_base(BackboneConfig(str(base()), "fp32"), CPU), LORA)
    backbone.add_role("policy", backbone.fresh_weights(seed=0), trainable=True)
    return backbone


@contextmanager
def dying() -> Iterator[None]:
    """The process ends behind the first checkpoint."""
    saved = IterationCheckpoint.on_train_batch_end

    def dies(self: Any, *arguments: Any) -> None:
        saved(self, *arguments)
        raise InterruptedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IterationCheckpoint, "on_train_batch_end", dies)
        yield
