from typing import Any

import pytest
import torch

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.scoring import score
from rlhf_forge.data.records import Pair, assistant, user
from rlhf_forge.evaluation.probes import FILLER, PROBES, Asked, probe_scores
from tests import tiny
from tests.tiny_tokenizer import mistral_template

TEMPLATE = mistral_template()
PAIRS = [
    Pair(user(prompt), assistant(answer), assistant("no"), f"here:{row}", {})
    for row, (prompt, answer) in enumerate([("Hello?", "Hi."), ("Why?", "So."), ("Who?", "Me.")])
]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny.four_roles(tiny.open_tiny())


def alone(backbone: Backbone, prompt: str, answer: str) -> float:
    tokens, targets = TEMPLATE.answered(user(prompt), assistant(answer))
    with torch.no_grad():
        return score(backbone, torch.tensor([tokens]), torch.tensor([targets])).item()


def test_probes_are_what_their_names_say() -> None:
    asked = Asked("Why?", "So.", "Me.")
    assert {name: make(asked) for name, make in PROBES.items()} == {
        "empty": "",
        "echo": "Why?",
        "other_prompt": "Me.",
        "repeated": "So. So.",
        "exclaimed": "So.!!!!",
        "filler": f"So. {FILLER}",
    }


def test_each_probe_is_scored_as_an_answer_to_its_prompt(backbone: Backbone) -> None:
    found = probe_scores(backbone, "reward", TEMPLATE, PAIRS)
    for name, text in (("empty", ""), ("echo", "Why?"), ("repeated", "So. So.")):
        assert found[name][1] == pytest.approx(alone(backbone, "Why?", text), abs=1e-4)


def test_the_order_of_the_pairs_gives_none_another_answer(backbone: Backbone) -> None:
    found = probe_scores(backbone, "reward", TEMPLATE, PAIRS)
    turned = probe_scores(backbone, "reward", TEMPLATE, PAIRS[::-1])
    for name in PROBES:
        assert found[name] == pytest.approx(turned[name][::-1], abs=1e-4)


def test_the_answer_to_another_prompt_is_never_the_own_one(backbone: Backbone) -> None:
    twice = [PAIRS[0], PAIRS[0], PAIRS[1]]
    found = probe_scores(backbone, "reward", TEMPLATE, twice)["other_prompt"]
    assert found[:2] == pytest.approx([alone(backbone, "Hello?", "So.")] * 2, abs=1e-4)
    assert found[2] == pytest.approx(alone(backbone, "Why?", "Hi."), abs=1e-4)


def test_what_cannot_be_asked_is_none(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    one = probe_scores(backbone, "reward", TEMPLATE, PAIRS[:1])
    assert one["other_prompt"] == [None]
    assert one["empty"] != [None]
    monkeypatch.setattr(backbone.model.config, "max_position_embeddings", 20)
    short = probe_scores(backbone, "reward", TEMPLATE, PAIRS)
    assert short["filler"] == [None] * 3
    assert None not in short["empty"]


def test_a_conversation_is_probed_in_its_last_answer(backbone: Backbone) -> None:
    turns: Any = user("a") + assistant("b") + user("Why?")
    pair = Pair(turns, assistant("So."), assistant("no"), "here", {})
    [found] = probe_scores(backbone, "reward", TEMPLATE, [pair])["echo"]
    tokens, targets = TEMPLATE.answered(turns, assistant("Why?"))
    with torch.no_grad():
        wanted = score(backbone, torch.tensor([tokens]), torch.tensor([targets])).item()
    assert found == pytest.approx(wanted, abs=1e-4)
