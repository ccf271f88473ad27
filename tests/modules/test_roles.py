"""How roles come from the artefacts of earlier stages, and which artefacts are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from rlhf_forge.artefact import Expected, read_manifest
from rlhf_forge.backbone.adapter_files import read_adapter
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig, LoraSpec
from rlhf_forge.backbone.loading import load_base
from rlhf_forge.errors import UserError
from rlhf_forge.modules.roles import add_ppo_roles, add_reference, read_parent
from tests import tiny
from tests.tiny_run import write_base, write_run

OTHER = LoraSpec(r=8, alpha=8)
TOKENS = tiny.rows(9, 12)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("roles") / "base")


@pytest.fixture
def run(base: Path, tmp_path: Path) -> Path:
    return written(tmp_path / "run", base)


def written(folder: Path, base: Path, *, likelihood: float | None = None) -> Path:
    """A run without golden values, which its random weights would not give."""
    run = write_run(folder, base=base, likelihood=likelihood)
    for stage in ("sft", "ppo", "reward"):
        rewrite(artefact(run, stage), golden=[])
    return run


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "forge.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def artefact(run: Path, stage: str) -> Path:
    return run / stage / "artefact"


def opened(base: Path, lora: LoraSpec | None = None) -> Backbone:
    return Backbone(load_base(BackboneConfig(str(base), "fp32"), tiny.CPU), lora)


def expected(run: Path) -> Expected:
    manifest = read_manifest(artefact(run, "sft"))
    return Expected(manifest.base_fingerprint, manifest.tokenizer_hash, manifest.template_hash)


def ppo_roles(
    backbone: Backbone,
    run: Path,
    *,
    sft: str | None = "sft",
    reward: str | None = "reward",
    weight: float = 1.0,
    critic: bool = True,
) -> dict[str, str]:
    return add_ppo_roles(
        backbone,
        expected(run),
        precision="fp32",
        sft=None if sft is None else str(artefact(run, sft)),
        reward=None if reward is None else str(artefact(run, reward)),
        reward_weight=weight,
        critic=critic,
        seed=3,
    )


def reference(
    backbone: Backbone, run: Path, sft: Path | None
) -> tuple[dict[str, str], dict[str, Any]]:
    parents, start = add_reference(
        backbone,
        expected(run),
        precision="fp32",
        sft=None if sft is None else str(sft),
        seed=3,
    )
    return parents, start.pairs


def hidden(backbone: Backbone, role: str) -> torch.Tensor:
    with torch.no_grad(), backbone.using(role):
        return backbone.hidden(TOKENS)


def test_the_reference_is_the_sft_adapter_and_what_starts_from_it_is_equal_to_it(
    base: Path, run: Path
) -> None:
    backbone = opened(base)
    parents, start = reference(backbone, run, artefact(run, "sft"))
    assert parents == {"sft": "sft of run"}
    sft = read_adapter(artefact(run, "sft")).pairs
    assert all(torch.equal(down, start[name][0]) for name, (down, _) in sft.items())
    assert backbone.weights_of("reference").lora == tiny.LORA


def test_without_an_sft_stage_it_is_the_bare_base_and_what_starts_from_it_changes_nothing(
    base: Path, run: Path
) -> None:
    backbone = opened(base)
    parents, start = reference(backbone, run, None)
    assert parents == {}
    assert all(not up.any() for _, up in start.values())
    assert all(down.any() for down, _ in start.values())
    backbone.add_bare_role("base")
    assert torch.equal(hidden(backbone, "reference"), hidden(backbone, "base"))


@pytest.mark.parametrize("critic", [True, False])
def test_ppo_has_its_roles_and_knows_its_parents(base: Path, run: Path, critic: bool) -> None:
    backbone = opened(base)
    assert ppo_roles(backbone, run, critic=critic) == {
        "sft": "sft of run",
        "reward": "reward of run",
    }
    assert backbone.roles == {"policy", "reference", "reward"} | ({"value"} if critic else set())
    assert torch.equal(hidden(backbone, "policy"), hidden(backbone, "reference"))
    assert not torch.equal(hidden(backbone, "policy"), hidden(backbone, "reward"))


def test_ppo_against_the_bare_base_starts_at_the_bare_base(base: Path, run: Path) -> None:
    backbone = opened(base)
    assert ppo_roles(backbone, run, sft=None) == {"reward": "reward of run"}
    assert torch.equal(hidden(backbone, "policy"), hidden(backbone, "reference"))
    assert backbone.weights_of("policy").lora == LoraSpec(r=16, alpha=32)


def scalars(backbone: Backbone, role: str) -> torch.Tensor:
    with torch.no_grad(), backbone.using(role):
        return backbone.scalars(TOKENS)


def test_the_critic_starts_at_the_reward_models_share_of_the_rewards(base: Path, run: Path) -> None:
    whole, mixed = opened(base), opened(base)
    ppo_roles(whole, run)
    ppo_roles(mixed, run, weight=-0.5)
    assert torch.equal(scalars(whole, "value"), scalars(whole, "reward"))
    assert_close(scalars(mixed, "value"), -0.5 * scalars(mixed, "reward"))


@pytest.mark.parametrize("sft", ["sft", None])
def test_without_a_reward_model_the_critic_is_the_reference_and_foresees_nothing(
    sft: str | None, base: Path, run: Path
) -> None:
    backbone = opened(base)
    assert ppo_roles(backbone, run, sft=sft, reward=None).keys() == ({"sft"} if sft else set())
    assert backbone.roles == {"policy", "reference", "value"}
    assert torch.equal(hidden(backbone, "value"), hidden(backbone, "reference"))
    assert not scalars(backbone, "value").any()
    assert all(p.requires_grad for p in backbone.parameters_of("value"))
    alone = opened(base)
    ppo_roles(alone, run, sft=sft, reward=None, critic=False)
    assert alone.roles == {"policy", "reference"}


def test_a_stage_goes_on_with_its_parents_shape(base: Path, run: Path) -> None:
    backbone = opened(base, tiny.LORA)
    ppo_roles(backbone, run)
    assert backbone.weights_of("policy").lora == tiny.LORA


def test_a_shape_that_is_not_its_parents_is_refused_in_one_line(base: Path, run: Path) -> None:
    for parent in ("sft", "reward"):
        folder = artefact(run, parent)
        with pytest.raises(UserError) as caught:
            read_parent(str(folder), expected(run), stage=parent, lora=OTHER)
        assert str(caught.value) == (
            "model.init_args.backbone.lora: r 8, alpha 8 was given, but this stage goes on with "
            f"the adapter in {folder}, which has r 4, alpha 8"
        )
        assert caught.value.hint is not None
    with pytest.raises(UserError, match=r"backbone\.lora: r 8, alpha 8 was given"):
        ppo_roles(opened(base, OTHER), run)
    with pytest.raises(UserError, match=r"backbone\.lora: r 8, alpha 8 was given"):
        reference(opened(base, OTHER), run, artefact(run, "sft"))


def test_a_fresh_adapter_gets_the_shape_of_the_config(base: Path, run: Path) -> None:
    _, start = reference(opened(base, OTHER), run, None)
    assert {down.shape[0] for down, _ in start.values()} == {8}


def test_a_parent_of_another_stage_or_base_is_refused(run: Path) -> None:
    ours = expected(run)
    with pytest.raises(UserError, match="a ppo artefact, where one of sft is wanted"):
        read_parent(str(artefact(run, "ppo")), ours, stage="sft")
    rewrite(artefact(run, "sft"), base_fingerprint="x" * 64)
    with pytest.raises(UserError, match="made with another base"):
        read_parent(str(artefact(run, "sft")), ours, stage="sft")


@pytest.mark.parametrize(
    ("trained_from", "sft", "theirs", "ours"),
    [
        ({"sft": "another"}, "sft", "SFT artefact another", "SFT artefact sft of run"),
        ({"sft": "sft of run"}, None, "SFT artefact sft of run", "the bare base"),
        ({}, "sft", "the bare base", "SFT artefact sft of run"),
    ],
)
def test_a_reward_model_that_read_likelihoods_of_another_reference_is_refused(
    trained_from: dict[str, str],
    sft: str | None,
    theirs: str,
    ours: str,
    base: Path,
    tmp_path: Path,
) -> None:
    run = written(tmp_path / "run", base, likelihood=0.5)
    rewrite(artefact(run, "reward"), parents=trained_from)
    with pytest.raises(UserError, match=f"which is {theirs}, and this run's is {ours}") as caught:
        ppo_roles(opened(base), run, sft=sft)
    assert caught.value.hint is not None


@pytest.mark.parametrize(("trained_from", "sft"), [({}, None), ({"sft": "sft of run"}, "sft")])
def test_a_reward_model_that_read_likelihoods_of_this_reference_is_taken(
    trained_from: dict[str, str], sft: str | None, base: Path, tmp_path: Path
) -> None:
    run = written(tmp_path / "run", base, likelihood=0.5)
    rewrite(artefact(run, "reward"), parents=trained_from)
    backbone = opened(base)
    ppo_roles(backbone, run, sft=sft)
    assert backbone.head("reward").likelihood is not None
    assert backbone.head("value").likelihood is None
