"""From records to tokens, with every record used or counted."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from rlhf_forge.data.records import BadRecord, Demonstration, Pair, Prompt, Record
from rlhf_forge.data.render import ChatTemplate
from rlhf_forge.errors import UserError

Kind = Literal["demonstrations", "pairs", "prompts"]
Policy = Literal["stop", "skip"]
ORIGINS_SHOWN = 3


@dataclass(frozen=True)
class DemonstrationExample:
    """Tokens of a conversation; ``targets`` is True on those that are learnt."""

    tokens: list[int]
    targets: list[bool]
    record: Record


@dataclass(frozen=True)
class PairExample:
    """Tokens of prompt + preferred and prompt + other answer; True on each answer's tokens."""

    chosen: list[int]
    rejected: list[int]
    chosen_response: list[bool]
    rejected_response: list[bool]
    record: Record


@dataclass(frozen=True)
class PromptExample:
    """Tokens of a prompt, ready for an answer."""

    tokens: list[int]
    record: Record


Example = DemonstrationExample | PairExample | PromptExample


@dataclass
class Tally:
    """What became of every record; the numbers always add up.

    Attributes:
        used: Records that became examples.
        skipped: For each reason, where the records stood.
    """

    used: int = 0
    skipped: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def read(self) -> int:
        """All records."""
        return self.used + sum(len(origins) for origins in self.skipped.values())

    def lines(self) -> list[str]:
        """One line in all, and one for each reason with the first origins."""
        lines = [f"{self.read} records read, {self.used} used, {self.read - self.used} skipped"]
        for reason, origins in sorted(self.skipped.items()):
            shown = ", ".join(origins[:ORIGINS_SHOWN])
            more = f" and {len(origins) - ORIGINS_SHOWN} more" * (len(origins) > ORIGINS_SHOWN)
            lines.append(f"  {len(origins)} skipped: {reason} ({shown}{more})")
        return lines


def tokenize(
    rows: Iterable[tuple[str, Callable[[], Record]]],
    template: ChatTemplate,
    *,
    kind: Kind,
    max_length: int,
    bad_records: Policy,
) -> tuple[list[Example], Tally]:
    """Examples of all rows that can be used.

    Args:
        rows: Each row's origin, and what reads it as a record (and may raise `BadRecord`).
        template: Renders them.
        kind: What the stage learns from.
        max_length: Longest example in tokens; for prompts, of the prompt.
        bad_records: ``stop`` at the first row that cannot be used, or ``skip`` and count.

    Raises:
        UserError: Under ``stop``: with origin and reason. Always: if nothing is left.
    """
    examples: list[Example] = []
    tally = Tally()
    make = MAKERS[kind]
    for origin, read in rows:
        try:
            example = make(read(), template)
            _require_length(example, max_length)
        except BadRecord as bad:
            if bad_records == "stop":
                raise UserError(
                    f"{origin}: {bad}",
                    hint="mend the record, or set data.bad_records to skip and have it counted",
                ) from None
            # Counts in a reason would make every record a reason of its own.
            tally.skipped[str(bad).split(":")[0]].append(origin)
            continue
        examples.append(example)
        tally.used += 1
    if not examples:
        raise UserError("no record is left: " + "; ".join(line.strip() for line in tally.lines()))
    return examples, tally


def _demonstration(record: Record, template: ChatTemplate) -> DemonstrationExample:
    if isinstance(record, Pair):
        prompt, response = record.prompt, record.chosen
    elif isinstance(record, Demonstration):
        prompt, response = record.prompt, record.response
    else:
        raise BadRecord("a prompt without a response")
    if not all(t["content"].strip() for t in response if t["role"] == "assistant"):
        raise BadRecord("empty response")
    return DemonstrationExample(*template.answered(prompt, response), record)


def _pair(record: Record, template: ChatTemplate) -> PairExample:
    if not isinstance(record, Pair):
        raise BadRecord("not a pair of answers, which this stage needs")
    if record.chosen == record.rejected:
        raise BadRecord("chosen and rejected are equal")
    chosen, chosen_response = template.answered(record.prompt, record.chosen)
    rejected, rejected_response = template.answered(record.prompt, record.rejected)
    if chosen == rejected:
        raise BadRecord("chosen and rejected are equal once rendered")
    return PairExample(chosen, rejected, chosen_response, rejected_response, record)


def _prompt(record: Record, template: ChatTemplate) -> PromptExample:
    prompt = record.prompt
    if not prompt:
        raise BadRecord("no prompt")
    return PromptExample(template.prompt(prompt), Prompt(prompt, record.origin, record.fields))


MAKERS: dict[Kind, Callable[[Record, ChatTemplate], Example]] = {
    "demonstrations": _demonstration,
    "pairs": _pair,
    "prompts": _prompt,
}


def _require_length(example: Example, max_length: int) -> None:
    if isinstance(example, PairExample):
        length = max(len(example.chosen), len(example.rejected))
    else:
        length = len(example.tokens)
    if length > max_length:
        raise BadRecord(f"longer than data.max_length: {length} tokens, {max_length} allowed")
