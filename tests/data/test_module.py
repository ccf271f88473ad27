import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.core.optimizer import LightningOptimizer
from typing_extensions import override

from rlhf_forge.data.collate import PairBatch, PromptBatch, SequenceBatch
from rlhf_forge.data.module import PreferenceDataModule
from rlhf_forge.errors import UserError
from tests.tiny_tokenizer import mistral_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning.*", "ignore::FutureWarning")


class Recorder(LightningModule):
    """Learns nothing and notes which stream positions it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[int] = []
        self.tokens: list[list[int]] = []
        self.validated: list[int] = []

    @override
    def training_step(self, batch: SequenceBatch, batch_idx: int) -> None:
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        optimizer.step()
        self.seen += batch.positions.tolist()
        self.tokens += batch.tokens.tolist()

    @override
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.validated += batch.positions.tolist()

    @override
    def predict_step(self, batch: Any, batch_idx: int) -> list[int]:
        positions: list[int] = batch.positions.tolist()
        return positions

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def rows(*, seed: int, split: str) -> list[dict[str, Any]]:
    return [{"prompt": f"{split} {seed} {n}?", "completion": f"{n}."} for n in range(10)]


def held_out_alone(*, seed: int, split: str) -> list[dict[str, Any]]:
    assert split == "validation"
    return rows(seed=seed, split=split)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    mistral_tokenizer().save_pretrained(tmp_path / "base")
    lines = (json.dumps({"prompt": f"{n}?", "completion": f"{n}."}) + "\n" for n in range(40))
    (tmp_path / "data.jsonl").write_text("".join(lines))
    return tmp_path


def data_module(folder: Path, **changes: Any) -> PreferenceDataModule:
    arguments: dict[str, Any] = {
        "path": str(folder / "data.jsonl"),
        "tokenizer": str(folder / "base"),
        "batch_size": 8,
        "validation_fraction": 0.2,
    }
    return PreferenceDataModule(**(arguments | changes))


def ready(folder: Path, **changes: Any) -> PreferenceDataModule:
    data = data_module(folder, **changes)
    data.setup("fit")
    return data


def trainer(folder: Path, steps: int, **changes: Any) -> Trainer:
    return Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        limit_train_batches=steps,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **changes,
    )


def test_every_record_is_trained_on_or_held_out(folder: Path) -> None:
    data = ready(folder)
    assert data.held_out
    assert len(data.train.examples) + len(data.held_out) == 40


def test_where_another_split_is_held_out_training_records_are_read_with_the_first_look_at_them(
    folder: Path,
) -> None:
    data = data_module(folder, path=f"{__name__}:held_out_alone")
    data.setup("validate")
    assert len(data.held_out) == 10
    with pytest.raises(UserError, match="held_out_alone"):
        _ = data.train
    with pytest.raises(UserError, match="held_out_alone"):
        ready(folder, path=f"{__name__}:held_out_alone")


def test_setting_up_prints_format_counts_and_an_example_to_stderr(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ready(folder)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "format 'prompt-completion'" in captured.err
    assert "40 records read, 40 used, 0 skipped" in captured.err
    assert "<s>[INST] 0?[/INST]» 0.</s>«" in captured.err
    assert f"{len(data.train.examples)} to train on, {len(data.held_out)} held out" in captured.err


def test_where_so_few_records_are_held_out_that_there_are_none_it_is_said_with_the_way_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = []
    for fraction in (0.001, 0.2, 0.0):
        ready(folder, validation_fraction=fraction)
        told.append(capsys.readouterr().err)
    line = (
        "data: no prompt falls to the held-out share, so nothing measures this run: raise "
        "data.validation_fraction, now 0.001, or give data.validation a file\n"
    )
    assert told[0].endswith(f"data: 40 to train on, 0 held out\n{line}")
    assert not any("nothing measures" in text for text in told[1:]), "nobody asked for any at 0"


@pytest.mark.parametrize(
    ("kind", "batch"),
    [("demonstrations", SequenceBatch), ("prompts", PromptBatch)],
)
def test_batches_are_what_the_stage_needs(
    folder: Path, kind: str, batch: type[SequenceBatch | PromptBatch]
) -> None:
    loader = ready(folder, kind=kind).train_dataloader()
    first = next(iter(loader))
    assert isinstance(first, batch)
    assert len(first.positions) == 8


def test_a_record_is_found_by_its_position_in_every_round(folder: Path) -> None:
    data = ready(folder, kind="prompts")
    count = len(data.train.examples)
    tokens: dict[int, list[int]] = {}
    for batch in islice(data.train_dataloader(), 2 * count // 8):
        for position, row, mask in zip(batch.positions, batch.tokens, batch.mask, strict=True):
            tokens[int(position)] = row[mask].tolist()
    assert max(tokens) >= count, "there is a second round"
    for position, prompt in tokens.items():
        assert data.template.prompt(data.record_at(position).prompt) == prompt
    assert data.record_at(0).prompt != data.record_at(count).prompt, "rounds are shuffled"


def test_pairs_come_as_pairs(folder: Path) -> None:
    row = {"prompt": "a", "chosen": "b", "rejected": "c"}
    (folder / "data.jsonl").write_text(json.dumps(row))
    data = ready(folder, kind="pairs", validation_fraction=0.0)
    first = next(iter(data.train_dataloader()))
    assert isinstance(first, PairBatch)
    assert first.tokens.shape[0] == 16


def test_held_out_rows_come_in_order_once_and_none_is_dropped(folder: Path) -> None:
    data = ready(folder, batch_size=3)
    batches = list(data.val_dataloader())
    assert [p for b in batches for p in b.positions.tolist()] == list(range(len(data.held_out)))


def test_a_function_is_held_out_by_its_own_split(folder: Path) -> None:
    data = ready(folder, path=f"{__name__}:rows", seed=3)
    assert data.train.examples[0].record.prompt[0]["content"] == "train 3 0?"
    assert data.held_out[0].record.prompt[0]["content"] == "validation 3 0?"


def test_held_out_rows_may_come_from_a_split_with_another_name(folder: Path) -> None:
    data = ready(folder, path=f"{__name__}:rows", validation_split="test_prefs")
    assert data.held_out[0].record.prompt[0]["content"] == "test_prefs 0 0?"


def test_a_validation_file_is_held_out_whole_up_to_its_limit(folder: Path) -> None:
    file = folder / "held_out.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(seed=0, split="x")))
    data = ready(folder, validation=str(file))
    assert (len(data.train.examples), len(data.held_out)) == (40, 10)
    assert len(ready(folder, validation=str(file), validation_limit=4).held_out) == 4


@pytest.mark.parametrize("own_file", [True, False])
def test_held_out_records_beyond_the_limit_are_counted_and_not_trained_on(
    own_file: bool, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "held_out.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(seed=0, split="x")))
    changes = {"validation": str(file)} if own_file else {}
    whole = ready(folder, **changes)
    assert "left out" not in capsys.readouterr().err
    limited = ready(folder, validation_limit=3, **changes)
    told = capsys.readouterr().err
    left_out = len(whole.held_out) - 3
    assert left_out > 0
    assert f"3 held out, {left_out} more left out by data.validation_limit" in told
    assert limited.fingerprint() == whole.fingerprint()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"max_length": 0}, "data.max_length: must be 1 or more, got 0"),
        ({"validation_limit": 0}, "data.validation_limit: must be 1 or more, got 0"),
        ({"validation_limit": -1}, "data.validation_limit: must be 1 or more, got -1"),
        ({"seed": -1}, "data.seed: must be 0 or more, got -1"),
        ({"workers": -1}, "data.workers: must be 0 or more, got -1"),
    ],
)
def test_a_value_out_of_range_is_refused_before_anything_is_read(
    changes: dict[str, Any], error: str
) -> None:
    with pytest.raises(UserError) as caught:
        PreferenceDataModule("nowhere.jsonl", **changes)
    assert str(caught.value) == error


def test_a_split_that_nothing_would_read_is_refused_at_once(folder: Path) -> None:
    file = str(folder / "data.jsonl")
    for changes, message in (
        ({"split": "test"}, f"data.split: test: {file} has no splits"),
        ({"validation": file, "validation_split": "test"}, "data.validation_split: test"),
        ({"validation_split": "test"}, "data.validation_split: test: held out is a share"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            data_module(folder, **changes)
        assert caught.value.hint is not None


def test_a_tie_between_two_formats_is_settled_by_data_format(folder: Path) -> None:
    turns = [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "2."}]
    row = {"prompt": "3?", "completion": "4.", "messages": turns}
    (folder / "data.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match="fits two formats"):
        ready(folder, validation_fraction=0.0)
    for name, question in (("messages", "1?"), ("prompt-completion", "3?")):
        data = ready(folder, validation_fraction=0.0, format=name)
        assert data.train.examples[0].record.prompt[0]["content"] == question


def test_the_pairs_of_a_ranking_weigh_as_one_in_what_is_trained_on(folder: Path) -> None:
    turns = [{"role": "user", "content": "1?"}]
    entries = [
        {"rank": n, "completion": [{"role": "assistant", "content": f"{n}."}]} for n in range(3)
    ]
    rows = [{"context": turns, "completions": entries[:count]} for count in (3, 2)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = ready(folder, kind="pairs", validation_fraction=0.0)
    batch = next(iter(data.train_dataloader()))
    assert sorted(set(batch.weight.tolist())) == pytest.approx([2 / 3, 2.0])


def test_prompts_on_both_sides_are_counted_where_held_out_is_a_file_of_its_own(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "held_out.jsonl"
    prompts = ("1? ", "2?", "new?")
    file.write_text("".join(json.dumps({"prompt": p, "completion": "x"}) + "\n" for p in prompts))
    ready(folder, validation=str(file))
    assert "data: the prompts of 2 held-out records are trained on too" in capsys.readouterr().err
    ready(folder)
    assert "trained on too" not in capsys.readouterr().err


def test_records_skipped_from_a_validation_file_are_counted_too(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "held_out.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a", "completion": ""}\n')
    ready(folder, validation=str(file), bad_records="skip")
    assert f"1 skipped: empty response ({file}:2)" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_sees_what_an_unbroken_one_would(folder: Path, workers: int) -> None:
    whole = Recorder()
    trainer(folder, 9, enable_checkpointing=False).fit(
        whole, datamodule=data_module(folder, workers=workers)
    )
    saver = ModelCheckpoint(folder, filename="cut", every_n_train_steps=4, save_top_k=-1)
    # Within a round of the data, not at its end.
    trainer(folder, 5, callbacks=[saver]).fit(
        Recorder(), datamodule=data_module(folder, workers=workers)
    )
    resumed = Recorder()
    trainer(folder, 9, enable_checkpointing=False).fit(
        resumed, datamodule=data_module(folder, workers=workers), ckpt_path=folder / "cut.ckpt"
    )
    assert whole.seen == list(range(72))
    assert resumed.seen == list(range(32, 72))
    assert resumed.tokens == whole.tokens[32:]


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("batch_size", {"batch_size": 4}),
        ("seed", {"seed": 1}),
        ("fingerprint", {"validation_fraction": 0.3}),
    ],
)
def test_resuming_with_another_stream_is_refused(
    folder: Path, key: str, change: dict[str, Any]
) -> None:
    state = ready(folder).state_dict()
    other = ready(folder, **change)
    with pytest.raises(UserError, match=f"another data.{key}") as caught:
        other.load_state_dict(state)
    assert "\n" not in str(caught.value)


def test_a_trained_model_may_be_validated_on_other_data(folder: Path) -> None:
    fitted = trainer(folder, 1, enable_checkpointing=False)
    fitted.fit(Recorder(), datamodule=data_module(folder))
    fitted.save_checkpoint(folder / "done.ckpt")
    data = data_module(folder, path=f"{__name__}:rows", batch_size=4)
    model = Recorder()
    trainer(folder, 1).validate(model, datamodule=data, ckpt_path=folder / "done.ckpt")
    assert model.validated == list(range(10))


def test_predicting_goes_through_the_held_out_records_by_position(folder: Path) -> None:
    data = data_module(folder, path=f"{__name__}:rows", kind="prompts", batch_size=4)
    batches = trainer(folder, 1).predict(Recorder(), datamodule=data)
    assert batches is not None
    assert [position for batch in batches for position in batch] == list(range(10))
