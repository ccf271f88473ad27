"""A report card to read in a terminal of 80 columns."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlhf_forge.evaluation.card_rules import Check
from rlhf_forge.evaluation.report_card import Disagreement, Mistake, ReportCard
from rlhf_forge.evaluation.statistics import Share

COLOURS = {"good": "green", "doubtful": "yellow", "bad": "red"}
BAR = 18


def print_card(card: ReportCard) -> None:
    """Print the card to stdout: the verdict first, what it rests on below."""
    console = Console()
    console.print(Text.assemble("report card: ", (card.verdict, COLOURS[card.verdict])))
    console.print(_checks(card.checks))
    for check in (*card.of("bad"), *card.of("doubtful")):
        told = f"{check.verdict}: {check.name}: {check.reason} ({check.threshold})"
        console.print(plain(told))
    console.print(_facts(card), highlight=False)
    if card.disagreement is not None:
        console.print(_members(card.disagreement), highlight=False)
    console.print(_shares("length", card.length_gaps))
    if card.sources:
        console.print(_shares("source", card.sources))
    console.print(_reliability(card))
    console.print(_histogram(card))
    for number, mistake in enumerate(card.mistakes, start=1):
        console.print(Text("\n").join(_mistake(number, mistake)))


def plain(text: str) -> Text:
    """Text of data or model as it is: no markup, and nothing that a terminal would obey."""
    return Text("".join(c if c.isprintable() else " " for c in text))


def _checks(checks: list[Check]) -> Table:
    table = Table("check", "value", "95 %", "n", "verdict")
    for check in checks:
        table.add_row(
            check.name,
            f"{check.value:.3f}",
            check.interval,
            str(check.n),
            Text(check.verdict, COLOURS[check.verdict]),
        )
    return table


def _facts(card: ReportCard) -> str:
    ceiling = "" if card.ceiling is None else f", the labels allow {card.ceiling:.3f}"
    found = card.reliability
    return (
        f"{card.n} held-out pairs; the longer answer wins {card.longer_wins:.3f}, going by length "
        f"alone is right {card.majority:.3f}{ceiling}\n"
        f"margin {card.margin.value:+.3f} (se {card.margin.se:.3f}), median "
        f"{card.margin_median:+.3f}\n"
        f"NLL {found.nll:.3f} nats a pair, {found.nll_fitted:.3f} at temperature "
        f"{found.temperature:.2g}; guessing is 0.693"
    )


def _members(found: Disagreement) -> str:
    each = ", ".join(f"{accuracy:.3f}" for accuracy in found.accuracies)
    return (
        f"{len(found.accuracies)} members, right {each} each; spread {found.spread:.3f}; they part "
        f"on {found.split.value:.1%} of the pairs\n"
        f"and are right {found.accuracy_split.value:.3f} there, "
        f"{found.accuracy_agreed.value:.3f} where they agree"
    )


def _shares(what: str, shares: dict[str, Share]) -> Table:
    table = Table(what, "accuracy", "95 %", "n")
    for name, share in shares.items():
        table.add_row(
            plain(name),
            f"{share.value:.3f}" if share.n else "-",
            f"{share.low:.3f} to {share.high:.3f}",
            str(share.n),
        )
    return table


def _reliability(card: ReportCard) -> Table:
    table = Table("sure of", "confidence", "accuracy", "n")
    for part in card.reliability.bins:
        table.add_row(
            f"{part.low:.1f} to {part.high:.1f}",
            f"{part.confidence:.3f}",
            f"{part.accuracy:.3f}",
            str(part.n),
        )
    return table


def _histogram(card: ReportCard) -> Table:
    table = Table("score from", "chosen", "", "rejected", "")
    found = card.histogram
    most = max((*found.chosen, *found.rejected, 1))
    for low, chosen, rejected in zip(found.edges[:-1], found.chosen, found.rejected, strict=True):
        bars = ["#" * round(BAR * count / most) for count in (chosen, rejected)]
        table.add_row(f"{low:+.2f}", str(chosen), bars[0], str(rejected), bars[1])
    return table


def _mistake(number: int, mistake: Mistake) -> Iterator[Text]:
    yield plain(f"mistake {number}: {mistake.origin}: margin {mistake.margin:+.2f}")
    for name in ("prompt", "chosen", "rejected"):
        yield plain(f"  {name}: {getattr(mistake, name)}")
