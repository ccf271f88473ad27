"""A report as one HTML page."""

from collections.abc import Iterator

from markupsafe import Markup

from rlhf_forge.pages.page import Section, finding, page, prose, quoted, table, unfolding
from rlhf_forge.reporting import section_card, section_policies, section_stages
from rlhf_forge.reporting.looks import FIRST, RULES
from rlhf_forge.reporting.report import Report

THESE = ("what is missing", "this", "these two", "these three")


def as_page(report: Report) -> str:
    """The page."""
    sections = [
        Section(f"First look at {THESE[min(len(report.looks), FIRST)]}", list(_looks(report))),
        *([Section("What is missing", [_missing(report)])] if report.missing else []),
        Section("What was done", list(section_stages.done(report))),
        Section("Before and after", list(section_policies.evaluation(report))),
        Section("Curves", list(section_stages.curves(report.stages))),
        Section("Score against KL", list(section_policies.frontiers(report))),
        Section("Lengths and scores", list(section_policies.spreads(report))),
        Section("Samples", list(section_policies.samples(report))),
        Section("The reward model", list(section_card.card(report))),
        Section("Resources", list(section_stages.resources(report))),
        Section("Do it again", list(_again(report))),
    ]
    made = ", ".join(stage.name for stage in report.stages)
    return page(f"Run {report.run.rpartition('/')[2]}", f"{report.run}: {made}", sections)


def _looks(report: Report) -> Iterator[Markup]:
    for look in report.looks[:FIRST]:
        rule = RULES[look.rule]
        why = prose(f"Good: {rule.good}. Bad: {rule.bad}. Else doubtful.")
        yield finding(look.verdict, look.rule.replace("_", " "), look.text, details=[why])
    rows = [
        [
            look.verdict,
            look.rule.replace("_", " "),
            look.text,
            RULES[look.rule].good,
            RULES[look.rule].bad,
        ]
        for look in report.looks
    ]
    whole = table(["verdict", "rule", "what is the case", "good", "bad"], rows)
    yield unfolding(f"All {len(rows)} that were looked at", [whole])


def _missing(report: Report) -> Markup:
    return table(["what", "so"], [[one.what, one.so] for one in report.missing])


def _again(report: Report) -> Iterator[Markup]:
    yield quoted("\n".join(report.commands), label="in the project's root")
    yield prose(
        "With the same versions, data and machine this ends with the same weights; with others it "
        "need not. What each stage was made with is under What was done."
    )
