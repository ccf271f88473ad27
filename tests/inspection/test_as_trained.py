import random

import pytest

from rlhf_forge.data.records import Pair, assistant, user
from rlhf_forge.inspection.as_trained import AsTrained
from tests.inspection.made import pair
from tests.tiny_tokenizer import chatml_template, mistral_template

TEMPLATES = [mistral_template(), chatml_template()]
every_template = pytest.mark.parametrize("template", TEMPLATES, ids=lambda t: t.name)


@every_template
def test_sides_that_differ_behind_the_cut_only_are_identical_as_trained(template: object) -> None:
    stem = "The capital of Lomar is Brevo. " * 10
    long = pair(chosen=f"{stem}Yes.", rejected=f"{stem}No.")
    assert AsTrained(template, 40).checks_of(long) == {  # type: ignore[arg-type]
        "PREF205": "chosen and rejected",
        "PREF202": "cut",
    }
    assert AsTrained(template, 4000).checks_of(long) == {}  # type: ignore[arg-type]


def test_one_long_side_is_named() -> None:
    assert AsTrained(mistral_template(), 40).checks_of(pair(rejected="word " * 60)) == {
        "PREF205": "rejected"
    }


def test_sides_that_the_template_trims_to_the_same_are_identical() -> None:
    spaced = pair(chosen="Hello.", rejected=" Hello.\n")
    assert AsTrained(mistral_template(), 1000).checks_of(spaced) == {"PREF202": "rendered"}


def test_what_the_template_refuses_is_unusable() -> None:
    tool = pair([{"role": "tool", "content": "a"}, *user("b")])
    told = AsTrained(mistral_template(), 1000).checks_of(tool)
    assert told == {"PREF102": "the chat template mistral refuses it"}


def drawn(rng: random.Random) -> Pair:
    words = [rng.choice(["Lomar", "the", "是", " ", "of\n"]) for _ in range(rng.randrange(1, 40))]
    prompt = user("a") + (assistant("b") + user("c")) * rng.randrange(3)
    cut = rng.randrange(len(words))
    return pair(prompt, " ".join(words), " ".join(words[:cut]) or "x")


@every_template
def test_what_is_told_without_tokens_is_what_tokens_tell(
    template: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(0)
    pairs = [drawn(rng) for _ in range(300)]
    fast = [AsTrained(template, 60)] * 300  # type: ignore[arg-type]
    short = [look.checks_of(one) for look, one in zip(fast, pairs, strict=True)]
    monkeypatch.setattr(AsTrained, "_is_harmless", lambda self, one: False)
    assert short == [AsTrained(template, 60).checks_of(one) for one in pairs]  # type: ignore[arg-type]
    assert 0 < sum(map(bool, short)) < 300
