"""The data of every stage as a LightningDataModule."""

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader
from typing_extensions import override

from rlhf_forge.data.bad_records import POLICIES, Policy
from rlhf_forge.data.collate import collate_demonstrations, collate_pairs, collate_prompts
from rlhf_forge.data.format import Kind
from rlhf_forge.data.functions import is_function
from rlhf_forge.data.loading import Loaded, load_examples
from rlhf_forge.data.records import Record
from rlhf_forge.data.render import ChatTemplate, load_template
from rlhf_forge.data.sources import require_used
from rlhf_forge.data.splits import on_both_sides, split_held_out, weighted_by_group
from rlhf_forge.data.stream import Positioned, Stream
from rlhf_forge.data.tokenize import Example
from rlhf_forge.errors import UserError

COLLATE: dict[Kind, Callable[..., Any]] = {
    "demonstrations": collate_demonstrations,
    "pairs": collate_pairs,
    "prompts": collate_prompts,
}
# What a split is called unless the config says so.
SPLIT, VALIDATION_SPLIT = "train", "validation"


class PreferenceDataModule(LightningDataModule):
    """Demonstrations, preference pairs or prompts from a file, a data set or a function.

    One batch is one optimiser step (one iteration in PPO). Training rows come from an endless
    stream addressed by position; held-out rows come in order, once, on every rank.

    Args:
        path: File (.jsonl, .json, .csv, .gz of them, .parquet, .arrow), folder of a data set, hub
            name (owner/name or owner/name:config), or module:function.
        split: Which split of a data set; a file has none.
        validation: Where held-out records come from; none: a share of ``path`` (for a function,
            its split ``validation_split``).
        validation_split: Which split of ``validation``, or of a function.
        validation_fraction: That share of the prompts, chosen by their content.
        validation_limit: At most so many held-out records; none: all. The others are neither
            trained on nor looked at.
        chat_template: mistral (ours), tokenizer (the base's own), or a Jinja file.
        map: Names of columns: map.prompt=question where the file calls the prompt question.
        format: Name of the format, where the rows fit two (docs/formats.md); none: told by them.
        bad_records: stop at the first record that cannot be used, or skip and count it.
        max_length: Longest example in tokens; for PPO, longest prompt.
        batch_size: Rows of one optimiser step; in PPO, prompts of one iteration.
        seed: Of the data: its order, and what a function draws.
        workers: Loader processes.
        tokenizer: Of the base; set from the backbone.
        kind: demonstrations, pairs or prompts; set from the stage.

    Raises:
        UserError: If a number is out of range.

    Attributes:
        held_out: The held-out examples; there after `setup`.
        on_bad: What is done about a record that cannot be used.
    """

    def __init__(  # noqa: PLR0913 - an argument is a config key
        self,
        path: str,
        split: str = SPLIT,
        validation: str | None = None,
        validation_split: str = VALIDATION_SPLIT,
        validation_fraction: float = 0.05,
        validation_limit: int | None = None,
        chat_template: str = "mistral",
        map: dict[str, str] | None = None,
        format: str | None = None,
        bad_records: Policy = "stop",
        max_length: int = 1024,
        batch_size: int = 32,
        seed: int = 0,
        workers: int = 0,
        tokenizer: str = "",
        kind: Kind = "demonstrations",
    ) -> None:
        super().__init__()
        _require_least(1, max_length=max_length, validation_limit=validation_limit)
        _require_least(0, seed=seed, workers=workers)
        require_used("data.split", split, path, default=SPLIT)
        _require_validation_split(validation_split, validation, path)
        self.path, self.split = path, split
        self.validation, self.validation_split = validation, validation_split
        self.validation_fraction = validation_fraction
        self.validation_limit = validation_limit
        self.chat_template = chat_template
        self.columns, self.format = map or {}, format
        self.on_bad = POLICIES[bad_records]
        self.max_length, self.batch_size = max_length, batch_size
        self.seed, self.workers = seed, workers
        self.tokenizer_name = tokenizer
        self.kind: Kind = kind
        self.consumed = 0
        self.held_out: list[Example]

    @override
    def setup(self, stage: str) -> None:
        if hasattr(self, "held_out"):
            return
        if stage == "fit":
            show(self.read())
        else:
            self._hold_out()

    def read(self) -> Iterator[str]:
        """Read all of the data and split it.

        Returns:
            What there is to say of it, in lines.
        """
        source = self._source
        others, left_out = self._hold_out()
        return self._told([source, *others], left_out=left_out)

    def _hold_out(self) -> tuple[list[Loaded], int]:
        """Read what is held out; where that is another source, the training records are not read.

        Returns:
            That other source, if there is one, and how many records `validation_limit` leaves out.
        """
        others = []
        if self._holds_out_another:
            others = [self._load(self.validation or self.path, self.validation_split)]
        held_out = others[0].examples if others else self._split[1]
        self.held_out = weighted_by_group(held_out[: self.validation_limit])
        return others, len(held_out) - len(self.held_out)

    def _told(self, sources: list[Loaded], *, left_out: int) -> Iterator[str]:
        for source in sources:
            yield from source.summary(self.template, self.kind)
        yield self._counts(left_out=left_out)
        if not self.held_out and self.validation_fraction:
            yield (
                "data: no prompt falls to the held-out share, so nothing measures this run: raise "
                f"data.validation_fraction, now {self.validation_fraction:g}, or give "
                "data.validation a file"
            )
        if len(sources) > 1 and (both := on_both_sides(self.train.examples, self.held_out)):
            yield f"data: the prompts of {both} held-out records are trained on too"

    @cached_property
    def template(self) -> ChatTemplate:
        """Renders every conversation of the run."""
        return load_template(self.tokenizer_name, self.chat_template)

    @cached_property
    def train(self) -> Loaded:
        """The training examples; after `setup`.

        They are read with the first look at them: where another source is held out, an evaluation
        has none.
        """
        loaded = self._source if self._holds_out_another else self._split[0]
        return replace(loaded, examples=weighted_by_group(loaded.examples))

    @cached_property
    def _source(self) -> Loaded:
        return self._load(self.path, self.split)

    @cached_property
    def _split(self) -> tuple[Loaded, list[Example]]:
        """What is trained on, and what is held out of the same source."""
        return split_held_out(self._source, self.validation_fraction)

    @property
    def _holds_out_another(self) -> bool:
        return self.validation is not None or is_function(self.path)

    def _counts(self, *, left_out: int) -> str:
        told = f"data: {len(self.train.examples)} to train on, {len(self.held_out)} held out"
        more = f", {left_out} more left out by data.validation_limit"
        return told + (more if left_out else "")

    @property
    def gives(self) -> Kind | None:
        """What the source holds, whatever it is used as; None before `setup`."""
        return self.train.form.gives if hasattr(self, "held_out") else None

    def fingerprint(self) -> str:
        """SHA-256 over the tokens that are trained on, in order; after `setup`."""
        return self.train.fingerprint()

    def stream(self, start: int = 0) -> Stream:
        """Batches of (position, number of the example), from ``start`` without end."""
        examples = self.train.examples
        return Stream(len(examples), batch_size=self.batch_size, seed=self.seed, start=start)

    def record_at(self, position: int) -> Record:
        """The training record at a position of the stream; after `setup`."""
        return self.train.examples[self.stream().example_at(position)].record

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(
            Positioned(self.train.examples),
            batch_sampler=self.stream(self.consumed),
            collate_fn=COLLATE[self.kind],
            num_workers=self.workers,
        )

    @override
    def val_dataloader(self) -> DataLoader[Any]:
        rows = [(number, number) for number in range(len(self.held_out))]
        return DataLoader(
            Positioned(self.held_out),
            sampler=rows,
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
        # Processed, not loaded: what loader processes fetched ahead has taught nothing yet.
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress if self.trainer else None
        batches = progress.total.processed if progress else 0
        return {"consumed": batches * self.batch_size, **self._identity()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.trainer and self.trainer.state.fn != "fit":
            return  # a trained model may be tested on other data
        for key, ours in self._identity().items():
            if state_dict[key] != ours:
                raise UserError(
                    f"checkpoint: it was written with another data.{key}: {state_dict[key]}, "
                    f"this run has {ours}",
                    hint="go on with the data, seed and batch size of that run, or start a new run",
                )
        self.consumed = state_dict["consumed"]

    def _identity(self) -> dict[str, Any]:
        """What the order of the stream depends on."""
        return {
            "batch_size": self.batch_size,
            "seed": self.seed,
            "fingerprint": self.fingerprint(),
        }

    def _load(self, path: str, split: str) -> Loaded:
        return load_examples(
            path,
            self.template,
            split=split,
            columns=self.columns,
            kind=self.kind,
            max_length=self.max_length,
            on_bad=self.on_bad,
            seed=self.seed,
            form=self.format,
        )


def _require_least(least: int, **settings: int | None) -> None:
    for name, got in settings.items():
        if got is not None and got < least:
            raise UserError(f"data.{name}: must be {least} or more, got {got}")


def _require_validation_split(split: str, validation: str | None, path: str) -> None:
    key = "data.validation_split"
    if validation is None and not is_function(path) and split != VALIDATION_SPLIT:
        raise UserError(
            f"{key}: {split}: held out is a share of {path}, so no split is asked for",
            hint=f"set data.validation to {path} too, to hold out a split of the same data set",
        )
    if validation is not None:
        require_used(key, split, validation, default=VALIDATION_SPLIT)


@rank_zero_only
def show(lines: Iterable[str]) -> None:
    """Print what was found, to stderr: stdout is for data."""
    sys.stderr.writelines(f"{line}\n" for line in lines)
