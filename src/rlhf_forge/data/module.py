"""The data of every stage as a LightningDataModule."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from rlhf_forge.data.collate import collate_demonstrations, collate_pairs, collate_prompts
from rlhf_forge.data.loading import Loaded, load_examples, split_held_out
from rlhf_forge.data.render import ChatTemplate, load_template
from rlhf_forge.data.sources import is_function
from rlhf_forge.data.stream import Stream
from rlhf_forge.data.tokenize import Example, Kind, Policy
from rlhf_forge.errors import UserError

COLLATE: dict[Kind, Callable[..., Any]] = {
    "demonstrations": collate_demonstrations,
    "pairs": collate_pairs,
    "prompts": collate_prompts,
}


class PreferenceDataModule(LightningDataModule):
    """Demonstrations, preference pairs or prompts from a file, a data set or a function.

    One batch is one optimiser step (one iteration in PPO). Training rows come from an endless
    stream addressed by position; held-out rows come in order, once.

    Args:
        path: File (.jsonl, .json, .csv, .parquet, .gz), folder of a data set, hub name, or
            module:function.
        split: Which split of a data set.
        validation: Where held-out records come from; none: a share of ``path`` (for a function,
            its split "validation").
        validation_fraction: That share of the prompts, chosen by their content.
        validation_limit: At most so many held-out records; none: all.
        chat_template: mistral (ours), tokenizer (the base's own), or a Jinja file.
        map: Names of columns: map.prompt=question where the file calls the prompt question.
        bad_records: stop at the first record that cannot be used, or skip and count it.
        max_length: Longest example in tokens; for PPO, longest prompt.
        batch_size: Rows of one optimiser step; in PPO, responses of one iteration.
        seed: Of the data: its order, and what a function draws.
        workers: Loader processes.
        tokenizer: Of the base; set from the backbone.
        kind: demonstrations, pairs or prompts; set from the stage.
    """

    def __init__(  # noqa: PLR0913 - an argument is a config key
        self,
        path: str,
        split: str = "train",
        validation: str | None = None,
        validation_fraction: float = 0.05,
        validation_limit: int | None = None,
        chat_template: str = "mistral",
        map: dict[str, str] | None = None,
        bad_records: Policy = "stop",
        max_length: int = 1024,
        batch_size: int = 32,
        seed: int = 0,
        workers: int = 0,
        tokenizer: str = "",
        kind: Kind = "demonstrations",
    ) -> None:
        super().__init__()
        self.path, self.split, self.validation = path, split, validation
        self.validation_fraction = validation_fraction
        self.validation_limit = validation_limit
        self.chat_template = chat_template
        self.columns = map or {}
        self.bad_records: Policy = bad_records
        self.max_length, self.batch_size = max_length, batch_size
        self.seed, self.workers = seed, workers
        self.tokenizer_name = tokenizer
        self.kind: Kind = kind
        self.consumed = 0
        self.template: ChatTemplate
        self.train: Loaded
        self.held_out: list[Example]

    @override
    def setup(self, stage: str) -> None:
        if hasattr(self, "train"):
            return
        self.template = load_template(self.tokenizer_name, self.chat_template)
        loaded = self._load(self.path, self.split)
        show(loaded.summary(self.template, self.kind))
        if self.validation is not None:
            held_out = self._load(self.validation, self.split).examples
        elif is_function(self.path):
            held_out = self._load(self.path, "validation").examples
        else:
            loaded, held_out = split_held_out(loaded, self.validation_fraction)
        self.train, self.held_out = loaded, held_out[: self.validation_limit]

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        world_size = self.trainer.world_size if self.trainer else 1
        stream = Stream(
            len(self.train.examples),
            batch_size=self.batch_size,
            seed=self.seed,
            start=self.consumed,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=world_size,
        )
        return DataLoader(
            Positioned(self.train.examples),
            batch_sampler=stream,
            collate_fn=COLLATE[self.kind],
            num_workers=self.workers,
        )

    @override
    def val_dataloader(self) -> DataLoader[Any]:
        rows = [(number, number) for number in range(len(self.held_out))]
        return DataLoader(
            Positioned(self.held_out),
            sampler=rows,  # type: ignore[arg-type]  # any iterable of keys is a sampler
            batch_size=self.batch_size,
            collate_fn=COLLATE[self.kind],
        )

    @override
    def test_dataloader(self) -> DataLoader[Any]:
        return self.val_dataloader()

    @override
    def predict_dataloader(self) -> DataLoader[Any]:
        return self.val_dataloader()

    @override
    def state_dict(self) -> dict[str, Any]:
        assert self.trainer is not None
        batches = self.trainer.fit_loop.epoch_loop.batch_progress.total.processed
        return {
            "consumed": batches * self.batch_size,
            "batch_size": self.batch_size,
            "fingerprint": self.train.fingerprint(),
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for key, ours in (
            ("batch_size", self.batch_size),
            ("fingerprint", self.train.fingerprint()),
        ):
            if state_dict[key] != ours:
                raise UserError(
                    f"checkpoint: was written with another data.{key} "
                    f"({state_dict[key]}, not {ours})",
                    hint="resume with the data and batch size it was written under",
                )
        self.consumed = state_dict["consumed"]

    def _load(self, path: str, split: str) -> Loaded:
        return load_examples(
            path,
            self.template,
            split=split,
            columns=self.columns,
            kind=self.kind,
            max_length=self.max_length,
            bad_records=self.bad_records,
            seed=self.seed,
        )


class Positioned(Dataset[tuple[int, Example]]):
    """Examples under (stream position, number) keys."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples

    @override
    def __getitem__(self, key: tuple[int, int]) -> tuple[int, Example]:
        position, number = key
        return position, self.examples[number]

    def __len__(self) -> int:
        return len(self.examples)


@rank_zero_only
def show(lines: list[str]) -> None:
    """Print what was found, to stderr: stdout is for data."""
    sys.stderr.write("\n".join(lines) + "\n")
