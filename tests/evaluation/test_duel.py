import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_forge.backbone.adapter_files import read_adapter
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig
from rlhf_forge.backbone.loading import load_base
from rlhf_forge.backbone.scoring import score
from rlhf_forge.data.records import Prompt, user
from rlhf_forge.data.tokenize import PromptExample
from rlhf_forge.errors import UserError
from rlhf_forge.evaluation.duel import Duel, Lineup, find_lineup
from rlhf_forge.evaluation.policies import sampled_answers
from rlhf_forge.generation.sampler import Sampling
from tests import tiny
from tests.tiny_run import write_base, write_run

# Few enough that a random model does not find every response as surprising as can be.
SAMPLING = Sampling(max_new_tokens=2)
TEXTS = ("Hello", "Is snow white?", "Why?")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("duel") / "base")


@pytest.fixture(scope="module")
def run(base: Path) -> Path:
    return write_run(base.parent / "run", base=base, likelihood=0.5)


def artefact(run: Path, stage: str) -> Path:
    return run / stage / "artefact"


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "forge.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def duel(lineup: Lineup, judge: str | None = None) -> Duel:
    prompts = [
        PromptExample(lineup.template.prompt(user(text)), Prompt(user(text), "here", {}))
        for text in TEXTS
    ]
    return Duel(lineup.load(tiny.CPU), lineup.template, prompts, SAMPLING, 3, judge)


def by_hand(run: Path, fight: Duel, role: str, *, reference: Path | None) -> list[float]:
    """Scores of what ``role`` answers, on a backbone that holds the reward model's roles alone."""
    answers = sampled_answers(
        fight.backbone, role, fight.prompts, fight.template, SAMPLING, seed=3, kl_from="against"
    )
    config = BackboneConfig(str(run.parent / "base"), "fp32")
    backbone = Backbone(load_base(config, tiny.CPU), tiny.LORA)
    backbone.add_role("reward", read_adapter(artefact(run, "reward")), trainable=False)
    if reference is None:
        backbone.add_bare_role("reference")
    else:
        backbone.add_role("reference", read_adapter(reference), trainable=False)
    scores = []
    for example, response in zip(fight.prompts, answers.responses, strict=True):
        tokens = torch.tensor([[*example.tokens, *response.tokens]])
        mask = torch.arange(tokens.shape[1]).unsqueeze(0) >= len(example.tokens)
        with torch.no_grad():
            scores.append(score(backbone, tokens, mask).item())
    return scores


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_a_judge_reads_likelihoods_of_its_own_sft_model_and_not_of_the_rival(run: Path) -> None:
    ppo, sft = artefact(run, "ppo"), artefact(run, "sft")
    fight = duel(find_lineup(sft, ppo, artefact(run, "reward")))
    expected = by_hand(run, fight, "policy", reference=sft)
    wrong = by_hand(run, fight, "policy", reference=ppo)
    found = fight.result()["models"]["policy"]["gold"]
    assert found == pytest.approx(mean(expected), abs=1e-4)
    assert abs(mean(expected) - mean(wrong)) > 0.03, "both would give the same score here"


def test_a_judge_trained_from_the_bare_base_reads_likelihoods_of_the_bare_base(
    base: Path, tmp_path: Path
) -> None:
    (tmp_path / "base").symlink_to(base)
    run = write_run(tmp_path / "run", base=base, likelihood=0.5)
    rewrite(artefact(run, "reward"), parents={})
    fight = duel(find_lineup(artefact(run, "ppo"), None, artefact(run, "reward")))
    expected = by_hand(run, fight, "policy", reference=None)
    assert fight.result()["models"]["policy"]["gold"] == pytest.approx(mean(expected), abs=1e-4)


def test_kl_is_measured_from_the_rival_whatever_the_judge_reads(run: Path) -> None:
    fight = duel(find_lineup(artefact(run, "sft"), artefact(run, "ppo"), artefact(run, "reward")))
    found = fight.result()["models"]
    assert found["against"]["kl"] == 0.0
    backbone = fight.backbone
    backbone.add_role("reference", read_adapter(artefact(run, "ppo")), trainable=False)
    again = sampled_answers(backbone, "policy", fight.prompts, fight.template, SAMPLING, seed=3)
    assert again.kl is not None
    assert found["policy"]["kl"] == pytest.approx(mean(again.kl), abs=1e-4)
    assert found["policy"]["kl"] != 0.0


def longer_wins(prompts: Any, responses: Any, records: Any) -> dict[str, list[float]]:
    lengths = [float(len(text)) for text in responses]
    return {"score": lengths, "correct": [1.0] * len(lengths)}


def test_a_function_may_judge_and_wins_are_counted_prompt_by_prompt(run: Path) -> None:
    lineup = find_lineup(artefact(run, "ppo"), artefact(run, "sft"), None)
    assert set(lineup.adapters) == {"policy", "against"}
    fight = duel(lineup, f"{__name__}:longer_wins")
    found = fight.result()
    texts = {
        role: sampled_answers(
            fight.backbone, role, fight.prompts, fight.template, SAMPLING, seed=3, kl_from="against"
        ).texts
        for role in ("policy", "against")
    }
    lengths = [(len(a), len(b)) for a, b in zip(texts["policy"], texts["against"], strict=True)]
    won = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in lengths]
    assert found["win_rate"]["value"] == mean(won)
    assert found["win_rate"]["n"] == len(TEXTS)
    assert found["models"]["policy"]["gold"] == mean([float(a) for a, _ in lengths])
    assert found["models"]["policy"]["accuracy"] == 1.0


def test_a_policy_against_itself_wins_half(run: Path) -> None:
    sft = artefact(run, "sft")
    found = duel(find_lineup(sft, sft, artefact(run, "reward"))).result()
    assert found["win_rate"]["value"] == 0.5
    assert found["models"]["policy"] == found["models"]["against"]


def test_a_greedy_duel_has_no_kl(run: Path) -> None:
    sampling = Sampling(temperature=0, max_new_tokens=4)
    fight = duel(find_lineup(artefact(run, "ppo"), artefact(run, "sft"), artefact(run, "reward")))
    found = replace(fight, sampling=sampling).result()
    assert [row["kl"] for row in found["models"].values()] == [None, None]


def test_a_reward_model_is_no_policy_and_a_policy_no_judge(run: Path) -> None:
    sft, reward = artefact(run, "sft"), artefact(run, "reward")
    for policy, against, judge, stage in (
        (reward, sft, reward, "reward"),
        (sft, reward, reward, "reward"),
        (sft, sft, sft, "sft"),
    ):
        with pytest.raises(UserError, match=f"a {stage} artefact, where one of"):
            find_lineup(policy, against, judge)


def test_a_base_that_is_not_the_policys_is_refused(base: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", base=base)
    other = write_base(tmp_path / "other", seed=1)
    for stage in ("ppo", "sft"):
        rewrite(artefact(run, stage), base=str(other))
    with pytest.raises(UserError, match="made with another base") as caught:
        find_lineup(artefact(run, "ppo"), artefact(run, "sft"), None)
    assert str(artefact(run, "ppo")) in str(caught.value)


@pytest.mark.parametrize("changed", ["ppo", "sft", "reward"])
def test_rivals_and_judge_must_share_the_template(changed: str, base: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", base=base)
    rewrite(artefact(run, changed), template_hash="x" * 64)
    with pytest.raises(UserError, match="made with another chat template"):
        find_lineup(*(artefact(run, stage) for stage in ("ppo", "sft", "reward")))
