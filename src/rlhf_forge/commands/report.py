"""``report``: what came of a run, as one page and as numbers."""

import sys
from pathlib import Path

from rlhf_forge.errors import UserError


def report(run: str, out: Path | None = None) -> int:
    """Write one HTML page about a run, and all numbers on it as JSON beside it.

    Prints the three things to look at first. What the run does not have is named on the page;
    nothing is computed for it.

    Args:
        run: Folder of the run, such as lightning_logs/quickstart, or its name.
        out: The page, .html; default: report.html in the run's folder.
    """
    from rlhf_forge.pages.escaping import visible
    from rlhf_forge.pages.page import write_page
    from rlhf_forge.reporting.as_page import as_page
    from rlhf_forge.reporting.looks import FIRST
    from rlhf_forge.reporting.report import report_of
    from rlhf_forge.reporting.run import read_run

    if out is not None and out.suffix != ".html":
        raise UserError(
            f"--out: {out}: must end in .html", hint=f"--out {out.with_suffix('.html')}"
        )
    found = read_run(run)
    path = out or found.folder / "report.html"
    numbers = report_of(found)
    write_page(path, as_page(numbers))
    path.with_suffix(".json").write_text(numbers.as_json() + "\n", encoding="utf-8")
    for look in numbers.looks[:FIRST]:
        print(visible(f"{look.verdict}: {look.text}"))
    sys.stderr.write(f"report: {path}\nnumbers: {path.with_suffix('.json')}\n")
    return 0
