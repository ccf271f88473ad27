"""The pictures in docs/: ``python -m tests.serve.page.screenshots docs``."""

import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from rlhf_forge.serve.feedback.store import FeedbackStore, Score
from tests.browsing import CHROMIUM, FLAGS
from tests.serve.feedback.casts import cast, comparison
from tests.serve.feedback.live import served
from tests.serve.page.scripted import Script, scripted_app

SAYS = {
    "base": ["Brevo."],
    "sft": ["Brevo is the capital of Lomar. ", "It lies on the river Tam, ", "two days inland."],
    "ppo": [
        "The capital of Lomar is Brevo.\n\n",
        "It was founded by traders, and ",
        "still trades.",
    ],
}
SIZES = {"wide": (1100, 680), "phone": (390, 844)}


def add_votes(store: FeedbackStore) -> None:
    """Votes of two people on the same pairs: mostly for one model, not quite of one mind."""
    for number in range(42):
        for at, name in enumerate(("Ada", "Bob")):
            choice = "tie" if number % 11 == 5 else "a" if (number + at * (number % 4)) % 3 else "b"
            vote = cast(
                comparison(
                    number,
                    choice,
                    id=f"{name}-{number}",
                    annotator=name,
                    shown_left="ab"[number % 2],
                )
            )
            store.add(vote)
            store.add_score(Score(vote.id, "reward", float(number % 5), 2.0))


def take(browser: Any, url: str, out: Path, size: str, scheme: str) -> None:
    """A pair that waits for a vote, a chat, and the results."""
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()

    def picture(view: str) -> None:
        page.screenshot(path=out / f"page-{view}-{size}-{scheme}.png")

    page.goto(url)
    page.wait_for_selector("#model-a option", state="attached")
    page.fill("#annotator", "Cy")
    page.fill("#prompt", "What is the capital of Lomar?")
    page.click("#start")
    page.wait_for_selector("#ask", state="hidden")
    page.wait_for_selector("#left[aria-busy=false]")
    page.mouse.move(0, 0)
    page.wait_for_selector("#numbers:has-text('votes')")
    picture("compare")
    page.click("nav a[href='#chat']")
    page.fill("#chat-text", "What is the capital of Lomar?")
    page.keyboard.press("Enter")
    page.wait_for_selector(".thumbs")
    picture("chat")
    page.click("nav a[href='#results']")
    page.wait_for_selector("#results meter")
    picture("results")
    context.close()


def main(out: Path) -> None:
    """Take all pictures, in both widths, light and dark."""
    votes = Path(tempfile.mkdtemp()) / "feedback.sqlite"
    add_votes(FeedbackStore(votes))
    with served(scripted_app(Script(says=SAYS), votes)) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        for size in SIZES:
            for scheme in ("light", "dark"):
                take(browser, url, out, size, scheme)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
