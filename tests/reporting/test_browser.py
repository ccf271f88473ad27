"""The page in a browser: nothing leaves it, nothing fails, nothing sticks out."""

from pathlib import Path
from typing import Any

import pytest

from rlhf_forge.__main__ import main
from tests.pages.reading import HOSTILE
from tests.reporting.written import write_run

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("text", ["An ordinary answer.", HOSTILE, "Donaudampfschiff" * 40])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_needs_nobody_says_nothing_and_fits_the_screen(
    text: str, width: int, scheme: str, browser: Any, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "mine", text=text)
    assert main(["report", str(run)]) == 0
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    heard: list[str] = []

    def refuse(dialog: Any) -> None:
        heard.append(dialog.message)
        dialog.dismiss()

    page.on("request", lambda request: heard.append(request.url))
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("dialog", refuse)
    page.goto((run / "report.html").as_uri())
    for unfolding in page.locator("details").all():
        unfolding.evaluate("part => part.open = true")
    assert [told for told in heard if not told.startswith("data:,")] == [
        (run / "report.html").as_uri()
    ]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator("svg").count() > 10
    context.close()


def test_in_print_all_is_unfolded_on_white_and_nothing_is_cut(browser: Any, tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine")
    assert main(["report", str(run)]) == 0
    context = browser.new_context(viewport={"width": 794, "height": 1123}, color_scheme="dark")
    page = context.new_page()
    page.goto((run / "report.html").as_uri())
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.get_by_text("fingerprint: dddd").or_(page.get_by_text("d" * 64)).first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 794
    assert page.pdf()[:4] == b"%PDF"
    context.close()
