"""From records to tokens, with every record used or counted."""

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from rlhf_forge.data.bad_records import OnBad
from rlhf_forge.data.format import Kind
from rlhf_forge.data.records import (
    BadRecord,
    Conversation,
    NoPreference,
    Pair,
    Prompt,
    Record,
)
from rlhf_forge.data.render import ChatTemplate
from rlhf_forge.errors import UserError

ORIGINS_SHOWN = 3


@dataclass(frozen=True)
class DemonstrationExample:
    """Tokens of a conversation; ``targets`` is True on those that are learnt."""

    tokens: Sequence[int]
    targets: Sequence[bool]
    record: Record


@dataclass(frozen=True)
class PairExample:
    """Tokens of prompt + preferred and prompt + other answer; True on each answer's tokens.

    ``weight`` is what the pair counts for in training; see `rlhf_forge.data.splits`.
    """

    chosen: Sequence[int]
    rejected: Sequence[int]
    chosen_response: Sequence[bool]
    rejected_response: Sequence[bool]
    record: Pair
    weight: float = 1.0


@dataclass(frozen=True)
class PromptExample:
    """Tokens of a prompt, ready for an answer."""

    tokens: Sequence[int]
    record: Prompt


Example = DemonstrationExample | PairExample | PromptExample


@dataclass
class Tally:
    """What became of every record; the numbers always add up.

    Attributes:
        rows: That were read; a row may hold several records.
        used: Records that became examples.
        skipped: For each reason, where the records stood.
    """

    rows: int = 0
    used: int = 0
    skipped: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def read(self) -> int:
        """All records."""
        return self.used + sum(len(origins) for origins in self.skipped.values())

    def lines(self) -> list[str]:
        """One line in all, and one for each reason with the first origins."""
        counts = f"{self.read} records read, {self.used} used, {self.read - self.used} skipped"
        lines = [counts + f", from {self.rows} rows" * (self.rows not in {0, self.read})]
        for reason, origins in sorted(self.skipped.items()):
            shown = ", ".join(origins[:ORIGINS_SHOWN])
            more = f" and {len(origins) - ORIGINS_SHOWN} more" * (len(origins) > ORIGINS_SHOWN)
            lines.append(f"{len(origins)} skipped: {reason} ({shown}{more})")
        return lines


def tokenize(
    rows: Iterable[tuple[str, Callable[[], list[Record]]]],
    template: ChatTemplate,
    *,
    kind: Kind,
    max_length: int,
    on_bad: OnBad,
) -> tuple[list[Example], Tally]:
    """Examples of all rows that can be used.

    Args:
        rows: Each row's origin, and what reads its records (and may raise `BadRecord`).
        template: Renders them.
        kind: What the stage learns from.
        max_length: Longest example in tokens; for prompts, of the prompt.
        on_bad: Called for each record that cannot be used, before it is counted.

    Raises:
        UserError: If nothing is left; and what ``on_bad`` raises.
    """
    examples: list[Example] = []
    tally = Tally()
    for origin, read in rows:
        tally.rows += 1
        for outcome in _outcomes(read, template, kind, max_length):
            if isinstance(outcome, NoPreference):
                # That nobody knows the better answer is no fault of the record.
                tally.skipped[outcome.reason].append(origin)
            elif not isinstance(outcome, BadRecord):
                examples.append(outcome)
                tally.used += 1
            else:
                on_bad(origin, outcome)
                # What stands behind the colon differs from record to record.
                tally.skipped[str(outcome).split(":")[0]].append(origin)
    if not examples:
        raise UserError(f"no record is left: {'; '.join(tally.lines())}")
    return examples, tally


def _outcomes(
    read: Callable[[], list[Record]], template: ChatTemplate, kind: Kind, max_length: int
) -> Iterator[Example | NoPreference | BadRecord]:
    """What becomes of each record of one row."""
    try:
        records = usable_as(kind, read())
    except BadRecord as bad:
        yield bad
        return
    for record in records:
        if isinstance(record, NoPreference) and (kind != "prompts" or not record.prompt):
            yield record
            continue
        try:
            yield example_of(record, template, kind=kind, max_length=max_length)
        except BadRecord as bad:
            yield bad


def usable_as(kind: Kind, records: list[Record]) -> list[Record]:
    """Those of a row's records that count: all pairs, but one demonstration and one prompt.

    All records of a row have one prompt, and the first pair has the best answer.
    """
    if kind == "pairs":
        return records
    first = next((r for r in records if not isinstance(r, NoPreference)), records[0])
    return [first]


def example_of(record: Record, template: ChatTemplate, *, kind: Kind, max_length: int) -> Example:
    """The tokens of one record.

    Raises:
        BadRecord: If it is no ``kind``, empty, too long, or a pair of equals.
    """
    if record.prompt and not any(turn["content"].strip() for turn in record.prompt):
        raise BadRecord("empty prompt")
    example = MAKERS[kind](record, template)
    if isinstance(example, PairExample):
        length = max(len(example.chosen), len(example.rejected))
    else:
        length = len(example.tokens)
    if length > max_length:
        raise BadRecord(f"longer than data.max_length: {length} tokens, {max_length} allowed")
    return example


def _demonstration(record: Record, template: ChatTemplate) -> DemonstrationExample:
    if isinstance(record, Prompt | NoPreference):
        raise BadRecord("a prompt without a response")
    response = record.chosen if isinstance(record, Pair) else record.response
    _require_text(response)
    tokens, targets = template.answered(record.prompt, response)
    return DemonstrationExample(_held(tokens), _marks(targets), record)


def _pair(record: Record, template: ChatTemplate) -> PairExample:
    if not isinstance(record, Pair):
        raise BadRecord("not a pair of answers")
    _require_text(record.chosen)
    _require_text(record.rejected)
    chosen, chosen_response = template.answered(record.prompt, record.chosen)
    rejected, rejected_response = template.answered(record.prompt, record.rejected)
    if chosen == rejected:
        raise BadRecord("chosen and rejected are equal")
    return PairExample(
        chosen=_held(chosen),
        rejected=_held(rejected),
        chosen_response=_marks(chosen_response),
        rejected_response=_marks(rejected_response),
        record=record,
    )


def _prompt(record: Record, template: ChatTemplate) -> PromptExample:
    if not record.prompt:
        raise BadRecord("no prompt")
    prompt = Prompt(record.prompt, record.origin, record.fields)
    return PromptExample(_held(template.prompt(prompt.prompt)), prompt)


def _held(tokens: list[int]) -> Sequence[int]:
    """The same in 4 bytes a token, where a list has a pointer and an object for each."""
    return array("i", tokens)


def _marks(marks: list[bool]) -> Sequence[bool]:
    return array("b", marks)  # type: ignore[return-value]  # 0 and 1 are what False and True are


def _require_text(response: Conversation) -> None:
    if not all(turn["content"].strip() for turn in response if turn["role"] == "assistant"):
        raise BadRecord("empty response")


MAKERS: dict[Kind, Callable[[Record, ChatTemplate], Example]] = {
    "demonstrations": _demonstration,
    "pairs": _pair,
    "prompts": _prompt,
}
