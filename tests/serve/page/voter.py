"""Someone who votes on the page by a rule, with the keys that a person has."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.serve.feedback.live import ask

# Longer than it takes to skim what the tiny model says: faster votes are flagged.
READING_MS = 1500
KEY = {-1: "1", 0: "0", 1: "2"}


def shorter(left: str, right: str) -> int:
    """The rule: the answer with fewer characters is better; -1 left, 0 tie, 1 right."""
    return (len(left) > len(right)) - (len(left) < len(right))


@dataclass
class Voter:
    """Works through a list of prompts in Compare.

    Attributes:
        page: A fresh page of a browser.
        url: Where the server is.
        name: Typed as the annotator's.
    """

    page: Any
    url: str
    name: str = "Rule"

    def vote(self, models: tuple[str, str], prompts: Sequence[str], votes: int) -> Any:
        """Cast so many votes between two models; returns the statistics behind the last one."""
        self._start(models, prompts)
        before = self._statistics()["votes"]
        for number in range(1, votes + 1):
            self.page.wait_for_selector("#left[aria-busy=false]")
            self.page.wait_for_selector("[data-vote=left]:enabled")
            self.page.wait_for_timeout(READING_MS)
            left, right = (self.page.text_content(f"#{place}") for place in ("left", "right"))
            self.page.keyboard.press(KEY[shorter(left, right)])
            while self._statistics()["votes"] < before + number:
                self.page.wait_for_timeout(50)
            self.page.wait_for_selector("#left[aria-busy=true]")
        return self._statistics()

    def _start(self, models: tuple[str, str], prompts: Sequence[str]) -> None:
        self.page.goto(self.url)
        self.page.wait_for_selector("#model-a option", state="attached")
        self.page.fill("#annotator", self.name)
        for field, model in zip(("#model-a", "#model-b"), models, strict=True):
            self.page.select_option(field, model)
        self.page.fill("#max-tokens", "40")
        self.page.check("input[value=list]")
        lines = (json.dumps({"prompt": prompt}) for prompt in prompts)
        self.page.fill("#prompt-list", "\n".join(lines))
        self.page.click("#start")

    def _statistics(self) -> Any:
        status, told = ask(f"{self.url}/v1/feedback/statistics")
        assert status == 200
        return told
