"""The page in a browser: what is shown, what is pressed, and what is stored."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhf_forge.serve.errors import ApiError
from rlhf_forge.serve.feedback.store import FeedbackStore
from rlhf_forge.serve.feedback.votes import Vote
from tests.serve.feedback.casts import cast, comparison, side
from tests.serve.feedback.live import served
from tests.serve.page.scripted import Script, scripted_app

pytestmark = pytest.mark.browser
HOSTILE = "<script>document.title = 'run'</script></style><img src=x onerror=alert(1)>\u202edlrow"


# How much of each answer is shown, whenever that changes.
NOTE_LENGTHS = """() => {
  window.seen = [];
  const places = ["left", "right"].map((id) => document.getElementById(id));
  const note = () => seen.push(places.map((place) => place.textContent.length));
  const watch = new MutationObserver(note);
  for (const place of places) watch.observe(place, { childList: true });
}"""


class Opened:
    """The page, opened before a scripted server, by one person."""

    def __init__(self, page: Any, url: str, script: Script, votes: Path) -> None:
        self.page, self.url, self.script, self.store = page, url, script, FeedbackStore(votes)
        self.complaints: list[str] = []
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _heard(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    def open(self, name: str = "Ada") -> "Opened":
        self.page.goto(self.url)
        self.page.wait_for_selector("#model-a option", state="attached")
        self.page.fill("#annotator", name)
        return self

    def choose(self, one: str, other: str) -> None:
        self.page.select_option("#model-a", one)
        self.page.select_option("#model-b", other)

    def ask(self, prompt: str = "What is the capital of Lomar?", *, whole: bool = True) -> None:
        self.page.fill("#prompt", prompt)
        self.page.click("#start")
        self.page.wait_for_selector("#ask", state="hidden")
        if whole:
            self.page.wait_for_selector("#left[aria-busy=false]")

    def shown(self) -> dict[str, str]:
        return {place: self.page.text_content(f"#{place}") for place in ("left", "right")}

    def press(self, key: str, stored: int) -> list[Vote]:
        """Press a key and wait until there are so many rows and the page says so."""
        self.page.keyboard.press(key)
        rows = self.store.votes()
        while len(rows) < stored:
            self.page.wait_for_timeout(20)
            rows = self.store.votes()
        # Behind the last pair that others judged, what was saved is soon followed by that.
        said = "^(Saved|Undone|You have judged every pair)"
        self.page.wait_for_selector(f"#status:text-matches('{said}')")
        assert len(rows) == stored
        return rows


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def opened(browser: Any, script: Script, tmp_path: Path) -> Iterator[Opened]:
    votes = tmp_path / "feedback.sqlite"
    with served(scripted_app(script, votes)) as url:
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        context.set_default_timeout(60_000)
        opened = Opened(context.new_page(), url, script, votes)
        yield opened
        context.close()
    assert opened.complaints == []


def stored_as_shown(vote: Vote, shown: dict[str, str], script: Script) -> bool:
    """Whether the row's sides are what stood left and right, each under its own model."""
    left, right = ("a", "b") if vote.shown_left == "a" else ("b", "a")
    sides = {"a": vote.a, "b": vote.b}
    return all(
        side is not None and side.text == shown[place] == script.text(side.model)
        for place, side in (("left", sides[left]), ("right", sides[right]))
    )


@pytest.mark.parametrize(("key", "place"), [("1", "left"), ("2", "right")])
def test_the_stored_choice_is_the_shown_choice_in_both_orders(
    opened: Opened, key: str, place: str
) -> None:
    opened.open()
    orders: set[str] = set()
    for number in range(1, 40):
        opened.ask(f"Question {number}?")
        shown = opened.shown()
        vote = opened.press(key, stored=number)[-1]
        chosen = dict(zip("ab", vote.sides, strict=True))[str(vote.choice)]
        assert chosen.text == shown[place]
        assert stored_as_shown(vote, shown, opened.script) or number == 15  # one that came back
        orders.add(str(vote.shown_left))
        opened.page.wait_for_selector("#ask", state="visible")
        if orders == {"a", "b"}:
            break
    assert orders == {"a", "b"}


@pytest.mark.parametrize(
    ("key", "choice"), [("0", "tie"), ("b", "both_bad"), ("s", "skip"), ("ArrowLeft", None)]
)
def test_every_key_does_what_it_says(opened: Opened, key: str, choice: str | None) -> None:
    opened.open().ask()
    [vote] = opened.press(key, stored=1)
    assert vote.choice == (choice or vote.shown_left)
    assert (vote.annotator, vote.blind, vote.source, vote.strength) == ("Ada", True, "page", None)


def test_a_click_votes_as_a_key_does_and_shift_says_much_better(opened: Opened) -> None:
    opened.open().ask()
    opened.page.click("[data-vote=right]")
    opened.page.wait_for_selector(".answer.chosen")
    assert opened.store.votes()[0].choice != opened.store.votes()[0].shown_left
    opened.ask()
    opened.page.keyboard.press("Shift+Digit1")
    opened.page.wait_for_selector("#left.chosen")
    assert opened.store.votes()[1].strength == 3


def test_keys_are_off_while_someone_types(opened: Opened) -> None:
    opened.open().ask()
    opened.page.keyboard.press("c")
    opened.page.keyboard.type("12 0bsu?")
    assert opened.page.input_value("#comment") == "12 0bsu?"
    opened.page.focus("#annotator")
    opened.page.keyboard.press("1")
    assert opened.store.votes() == []
    opened.page.focus("#comment")
    opened.page.keyboard.press("Escape")
    [vote] = opened.press("1", stored=1)
    assert vote.comment == "12 0bsu?"
    assert opened.page.input_value("#comment") == ""


def test_keys_can_be_switched_off_and_are_listed(opened: Opened) -> None:
    opened.open().ask()
    opened.page.keyboard.press("?")
    assert opened.page.is_visible("#help")
    opened.page.uncheck("#keys-on")
    opened.page.click("#help button")
    opened.page.keyboard.press("1")
    opened.page.click("[data-vote=tie]")
    opened.page.wait_for_selector("#status:has-text('Saved')")
    assert [vote.choice for vote in opened.store.votes()] == ["tie"]


def test_names_are_hidden_until_the_vote(opened: Opened) -> None:
    opened.open().ask()
    names = ("#left-model", "#right-model")
    assert [opened.page.text_content(name) for name in names] == ["", ""]
    pair = opened.page.inner_text("#pair")
    assert not any(model in pair for model in ("sft", "ppo"))
    opened.press("1", stored=1)
    assert {opened.page.text_content(name) for name in names} == {"sft", "ppo"}


def test_a_slow_model_looks_as_fast_as_a_quick_one(opened: Opened) -> None:
    opened.script.says = {"slow": ["word "] * 20, "quick": ["text "] * 20}
    opened.script.pause = {"slow": 0.05}
    opened.open().page.evaluate(NOTE_LENGTHS)
    opened.ask()
    seen = opened.page.evaluate("seen")
    assert len({left for left, _ in seen}) > 3
    assert all(abs(left - right) <= 6 for left, right in seen)


def test_a_vote_before_the_end_cuts_what_was_not_shown_and_says_so(opened: Opened) -> None:
    opened.script.says = {"sft": ["word "] * 4000, "ppo": ["🦊🦊 "] * 4000}
    opened.script.pause = {"sft": 0.01, "ppo": 0.01}
    opened.open().ask(whole=False)
    opened.page.wait_for_selector("[data-vote=left]:enabled")
    [vote] = opened.press("2", stored=1)
    shown = opened.shown()
    assert {side.text for side in vote.sides} == set(shown.values())
    assert [side.finish_reason for side in vote.sides] == ["cut_by_vote"] * 2
    assert "cut_by_vote" in vote.flags
    assert "Cut off by your vote" in opened.page.text_content("#status")


def test_undo_brings_the_pair_back_as_it_stood(opened: Opened) -> None:
    opened.open().ask()
    shown = opened.shown()
    [first] = opened.press("1", stored=1)
    undone = opened.press("u", stored=2)[-1]
    assert undone.undoes == first.id
    assert opened.shown() == shown
    assert opened.page.text_content("#left-model") == ""
    opened.page.keyboard.press("2")
    opened.page.wait_for_selector("#right.chosen")
    again = opened.store.votes()[-1]
    assert (again.pair, again.shown_left) == (first.pair, first.shown_left)
    assert {first.choice, again.choice} == {"a", "b"}


def test_two_samples_of_one_model_can_be_compared(opened: Opened) -> None:
    opened.open().choose("ppo", "ppo")
    opened.page.fill("#temperature", "0.5")
    opened.page.fill("#max-tokens", "40")
    opened.ask()
    [vote] = opened.press("1", stored=1)
    assert [side.model for side in vote.sides] == ["ppo", "ppo"]
    assert vote.sides[0].seed != vote.sides[1].seed
    assert [body["seed"] for body in opened.script.asked] == [side.seed for side in vote.sides]
    assert vote.sides[0].sampling == {"temperature": 0.5, "max_tokens": 40}
    assert [side.tokens for side in vote.sides] == [5, 5]


def test_a_list_goes_on_by_itself_and_is_remembered(opened: Opened) -> None:
    lines = ["First?", json.dumps({"prompt": "Second?"}), '{"no": "prompt"}']
    lines.append(json.dumps({"messages": [{"role": "user", "content": "Third?"}]}))
    opened.open()
    opened.page.check("input[value=list]")
    opened.page.fill("#prompt-list", "\n".join(lines))
    assert opened.page.text_content("#list-state") == "3 prompts, 1 lines not used"
    opened.page.click("#start")
    for number, prompt in enumerate(["First?", "Second?"], start=1):
        opened.page.wait_for_selector(f"#asked:has-text('{prompt}')")
        opened.page.wait_for_selector("#left[aria-busy=false]")
        opened.page.keyboard.press("1")
        opened.page.wait_for_selector(f"#asked:has-text('{['Second?', 'Third?'][number - 1]}')")
    opened.page.reload()
    opened.page.wait_for_selector(
        "#list-state:text-is('3 prompts, 3 done, 1 lines not used')", state="attached"
    )
    prompts = [(vote.messages or [])[0]["content"] for vote in opened.store.votes()]
    assert prompts == ["First?", "Second?"]


def test_the_fifteenth_pair_comes_back_with_its_sides_swapped(opened: Opened) -> None:
    before = {}
    for number in range(14):
        vote = cast(comparison(number))
        before[vote.pair] = vote
        opened.store.add(vote)
    opened.open().ask("Something new?")
    again = opened.press("1", stored=15)[-1]
    first = before[again.pair]
    assert [side.text for side in again.sides] == [side.text for side in first.sides]
    assert again.shown_left != first.shown_left
    # The prompt that was typed comes next, by itself.
    opened.page.wait_for_selector("#asked:has-text('Something new?')")


def test_pairs_that_others_judged_are_offered(opened: Opened) -> None:
    first = cast(comparison(0))
    opened.store.add(first)
    opened.open("Bob")
    opened.page.check("input[value=shared]")
    opened.page.click("#start")
    opened.page.wait_for_selector("#left[aria-busy=false]")
    vote = opened.press("1", stored=2)[-1]
    assert (vote.annotator, vote.pair) == ("Bob", first.pair)
    assert opened.script.asked == []
    opened.page.wait_for_selector("#status:has-text('every pair')")


def test_the_reward_models_scores_are_stored_beside_the_vote(opened: Opened) -> None:
    opened.open().ask()
    [vote] = opened.press("1", stored=1)
    opened.page.wait_for_selector("#numbers:has-text('1 votes')")
    [score] = opened.store.scores()
    assert (score.vote, score.model) == (vote.id, "reward")
    assert (score.a, score.b) == tuple(len(side.text) for side in vote.sides)


def test_an_answer_that_fails_cannot_be_voted_on_but_skipped(opened: Opened) -> None:
    opened.script.fails = {"ppo"}
    opened.open().ask()
    assert "No answer: the server failed" in str(opened.shown())
    assert opened.page.is_disabled("[data-vote=left]")
    opened.page.keyboard.press("1")
    [vote] = opened.press("s", stored=1)
    assert (vote.choice, vote.flags) == ("skip", ("error_text",))


def not_ready(message: str = "no answers yet: the models are loading") -> ApiError:
    return ApiError(503, message, code="not_ready", retry_after=1)


def told_of_refusals(opened: Opened) -> int:
    """How many refused requests the browser's console tells of; they are forgotten."""
    told = [text for text in opened.complaints if "the server responded with" in text]
    opened.complaints = [text for text in opened.complaints if text not in told]
    return len(told)


def test_a_pair_asked_for_while_the_models_load_comes_once_they_are(opened: Opened) -> None:
    opened.script.refusals = [not_ready() for _ in range(4)]
    opened.open().ask(whole=False)
    loading = "body:has(#status:has-text('the models are loading'))"
    opened.page.wait_for_selector(f"{loading} [data-vote=left]:disabled")
    opened.page.wait_for_selector("#left[aria-busy=false]")
    assert opened.page.text_content("#status") == ""
    shown = opened.shown()
    [vote] = opened.press("1", stored=1)
    assert stored_as_shown(vote, shown, opened.script)
    assert told_of_refusals(opened) == 4


def test_a_pair_that_waits_for_the_models_can_be_skipped(opened: Opened) -> None:
    opened.script.refusals = [not_ready() for _ in range(100)]
    opened.open().ask(whole=False)
    opened.page.wait_for_selector("#status:has-text('the models are loading')")
    while len(opened.complaints) < 2:  # one for each answer
        opened.page.wait_for_timeout(20)
    [vote] = opened.press("s", stored=1)
    assert vote.choice == "skip"
    opened.page.close()  # it may have asked once more
    assert told_of_refusals(opened) >= 2


def test_a_chat_waits_for_the_models_too(opened: Opened) -> None:
    opened.script.refusals = [not_ready() for _ in range(3)]
    opened.open().page.click("nav a[href='#chat']")
    opened.page.fill("#chat-text", "Hello")
    opened.page.keyboard.press("Enter")
    opened.page.wait_for_selector("#chat-state:has-text('the models are loading')")
    opened.page.wait_for_selector(".thumbs")
    assert opened.page.text_content("#chat-state") == ""
    assert told_of_refusals(opened) == 3


@pytest.mark.parametrize("says", [["Brevo."], []])
def test_an_empty_answer_is_shown_as_empty_and_can_be_voted_on(
    opened: Opened, says: list[str]
) -> None:
    opened.script.says = {"sft": [], "ppo": says}
    opened.open().ask()
    mark = "getComputedStyle(document.getElementById('{}'), '::before').content"
    marks = {place: opened.page.evaluate(mark.format(place)) for place in ("left", "right")}
    shown = opened.shown()
    expected = {place: "none" if text else '"(empty answer)"' for place, text in shown.items()}
    assert marks == expected
    [vote] = opened.press("1", stored=1)
    assert stored_as_shown(vote, shown, opened.script)


def test_a_stored_answer_without_an_end_comes_back_as_it_was_stored(opened: Opened) -> None:
    a, b = (side(f"{name}.", "elsewhere", finish_reason=None) for name in "ab")
    opened.store.add(cast(comparison(0, a=a, b=b)))
    opened.open("Bob")
    opened.page.check("input[value=shared]")
    opened.page.click("#start")
    opened.page.wait_for_selector("#left[aria-busy=false]")
    assert set(opened.shown().values()) == {"a.", "b."}
    vote = opened.press("1", stored=2)[-1]
    assert [side.finish_reason for side in vote.sides] == [None, None]
    assert opened.script.asked == []


def test_what_looks_like_markup_stays_text_everywhere(opened: Opened) -> None:
    opened.script.says = {HOSTILE: [HOSTILE], "ppo": [HOSTILE, HOSTILE]}
    opened.open(HOSTILE).ask(HOSTILE)
    assert set(opened.shown().values()) == {HOSTILE, HOSTILE * 2}
    assert opened.page.text_content("#asked") == HOSTILE
    opened.press("2", stored=1)
    assert opened.page.text_content("#left-model") in {HOSTILE, "ppo"}
    opened.page.click("nav a[href='#chat']")
    opened.page.fill("#chat-text", HOSTILE)
    opened.page.keyboard.press("Enter")
    opened.page.click(".thumbs >> text=Good")
    opened.page.wait_for_selector(".thumbs :text('Saved')")
    add_votes_of_two(opened.store, HOSTILE)  # for the name among those who agree
    opened.page.click("nav a[href='#results']")
    opened.page.wait_for_selector("#results :text('kappa')")
    assert HOSTILE in opened.page.text_content("#results")
    assert opened.page.title() == "results - rlhf_forge"
    assert opened.page.locator("main script, main img, main style").count() == 0


def test_a_chat_streams_remembers_and_takes_a_thumb(opened: Opened) -> None:
    opened.open().page.click("nav a[href='#chat']")
    opened.page.select_option("#chat-model", "sft")
    for number in (1, 2):
        opened.page.fill("#chat-text", f"Question {number}")
        opened.page.keyboard.press("Enter")
        opened.page.wait_for_selector(f".said.assistant:nth-child({2 * number}) .thumbs")
    assert [turn["role"] for turn in opened.script.asked[1]["messages"]] == [
        "user",
        "assistant",
        "user",
    ]
    opened.page.click(".thumbs >> nth=1 >> text=Bad")
    opened.page.wait_for_selector("button[aria-pressed=true]")
    [vote] = opened.store.votes()
    assert (vote.kind, vote.choice) == ("thumb", "down")
    assert vote.a is not None
    assert (vote.a.text, vote.a.model) == (opened.script.text("sft"), "sft")


def test_a_chat_can_be_stopped(opened: Opened) -> None:
    opened.script.says["ppo"] = ["word "] * 1000
    opened.script.pause["ppo"] = 0.02
    opened.open().page.click("nav a[href='#chat']")
    opened.page.fill("#chat-text", "Go on")
    opened.page.keyboard.press("Enter")
    opened.page.wait_for_selector(".said.assistant .turn:has-text('word')")
    opened.page.click("#chat-stop")
    opened.page.wait_for_selector("#chat-send:enabled")
    assert len(opened.page.text_content(".said.assistant .turn")) < 5000


def test_a_server_with_a_key_asks_for_it(browser: Any, script: Script, tmp_path: Path) -> None:
    with served(scripted_app(script, tmp_path / "f.sqlite", key="secret")) as url:
        page = browser.new_page()
        page.goto(url)
        page.wait_for_selector("#key", state="visible")
        page.fill("#key", "secret")
        page.keyboard.press("Enter")
        page.wait_for_selector("#model-a option", state="attached")
        assert page.is_hidden("#problem")
        page.close()


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_screen(opened: Opened, width: int) -> None:
    opened.page.set_viewport_size({"width": width, "height": 800})
    opened.script.says["ppo"] = ["w" * 500]
    opened.open().ask("p" * 300)
    opened.press("1", stored=1)
    for view in ("compare", "chat", "results"):
        opened.page.click(f"nav a[href='#{view}']")
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width


def test_every_control_is_reached_by_tab_and_has_a_name(opened: Opened) -> None:
    opened.open().ask()
    opened.page.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(40):
        opened.page.keyboard.press("Tab")
        reached.add(
            opened.page.evaluate("document.activeElement.id || document.activeElement.dataset.vote")
        )
    assert {"annotator", "left", "right", "tie", "both_bad", "skip", "comment"} <= reached
    nameless = opened.page.evaluate(
        "[...document.querySelectorAll('input, select, textarea, button')]"
        ".filter((e) => !e.labels?.length && !e.textContent.trim()).map((e) => e.outerHTML)"
    )
    assert nameless == []


@pytest.mark.skipif(
    "AXE" not in os.environ, reason="AXE names no axe.min.js (npm package axe-core)"
)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_any_view(
    browser: Any, script: Script, tmp_path: Path, scheme: str
) -> None:
    with served(scripted_app(script, tmp_path / "feedback.sqlite")) as url:
        # The page's own policy would keep the checker out.
        context = browser.new_context(color_scheme=scheme, bypass_csp=True)
        opened = Opened(context.new_page(), url, script, tmp_path / "feedback.sqlite").open()
        add_votes_of_two(opened.store)
        opened.page.add_script_tag(path=os.environ["AXE"])
        found = serious(opened.page, "start")
        opened.ask()
        found += serious(opened.page, "pair")
        opened.press("1", stored=61)
        found += serious(opened.page, "voted")
        opened.page.keyboard.press("?")
        found += serious(opened.page, "help")
        opened.page.keyboard.press("Escape")
        opened.page.click("nav a[href='#chat']")
        opened.page.fill("#chat-text", "Hello")
        opened.page.keyboard.press("Enter")
        opened.page.wait_for_selector(".thumbs")
        found += serious(opened.page, "chat")
        opened.page.click("nav a[href='#results']")
        opened.page.wait_for_selector("#results :text('kappa')")
        found += serious(opened.page, "results")
        context.close()
    assert found == []


def add_votes_of_two(store: FeedbackStore, name: str = "Cy") -> None:
    """Enough votes for every number that the page shows."""
    for number in range(30):
        for at, annotator in enumerate((name, "Bob")):
            choice = "ab"[number % 3 == at]
            store.add(cast(comparison(number, choice, id=f"{at}-{number}", annotator=annotator)))


def serious(page: Any, view: str) -> list[tuple[str, str, str]]:
    """What axe calls serious or critical, with the element it is about."""
    violations = page.evaluate("axe.run().then((found) => found.violations)")
    return [
        (view, violation["id"], node["html"])
        for violation in violations
        if violation["impact"] in {"serious", "critical"}
        for node in violation["nodes"]
    ]
