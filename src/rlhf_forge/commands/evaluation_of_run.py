"""An evaluator over the artefacts of a run."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rlhf_forge.data.tokenize import PairExample, PromptExample
from rlhf_forge.errors import UserError
from rlhf_forge.evaluation.rewards import MODEL_ALONE, Reward
from rlhf_forge.evaluation.summary import EvaluationSettings, Evaluator
from rlhf_forge.reward_terms import terms_of

if TYPE_CHECKING:
    from rlhf_forge.backbone.backbone import Backbone
    from rlhf_forge.data.render import ChatTemplate
    from rlhf_forge.parsed_stage import ParsedStage

# Stages that go on from SFT to a policy.
POLICY_STAGES = frozenset({"dpo", "ppo"})


def settings_of(place: Path) -> EvaluationSettings:
    """What ``evaluate.yaml`` in the folder says, or the defaults.

    Raises:
        UserError: If a key is unknown, or its value of the wrong type or out of range, or a
            function is not there.
    """
    from rlhf_forge.config_files import read_config
    from rlhf_forge.data.functions import load_function
    from rlhf_forge.parsing import TerseParser
    from rlhf_forge.stage_config import one_line

    parser = TerseParser()
    parser.add_class_arguments(EvaluationSettings, "evaluate")
    path = place / "evaluate.yaml"
    if not path.is_file():
        return EvaluationSettings()
    parsed = parser.parse_object({"evaluate": read_config(path)})
    with one_line(parsed.as_dict()):
        settings: EvaluationSettings = parser.instantiate(parsed).evaluate
    for function in (settings.judge, settings.annotator):
        if function is not None:
            load_function(function)
    return settings


def evaluator_of(
    settings: EvaluationSettings, stages: Mapping[str, "ParsedStage"]
) -> Evaluator | None:
    """Base, SFT, policies and reward model of a run on one backbone, with its held-out data.

    Args:
        settings: Of the evaluation.
        stages: Those of the run, by name.

    Returns:
        None if there is no policy to judge, or neither a judge nor a reward.

    Raises:
        UserError: If an artefact is missing, of another stage, or not made with this base,
            tokenizer and template.
    """
    policies = policies_in(stages)
    if not policies:
        return None
    first = stages[policies[0]]
    module, roles = first.module(), {name: f"policy_{n}" for n, name in enumerate(policies)}
    scored = next((stage for stage in stages.values() if stage.stage == "reward"), None)
    artefacts = {role: (_artefact_of(stages[n]), stages[n].stage) for n, role in roles.items()}
    own = _artefact_of(scored) if scored else None
    reward = _reward_of(module, own)
    if reward is None and settings.judge is None:
        return None
    if scorer := (reward and reward.artefact) or own:
        artefacts["reward"] = (scorer, "reward")
    if module.reference == "sft":
        artefacts["reference"] = (module.sft, "sft")
    prompts = first.data("prompts")
    if not prompts.held_out:
        raise UserError(
            f"{policies[0]}: no prompt is held out to evaluate on",
            hint="raise data.validation_fraction, or give data.validation a file",
        )
    return Evaluator(
        backbone=_backbone_with(artefacts, module, prompts.template),
        template=prompts.template,
        prompts=cast("list[PromptExample]", prompts.held_out[: settings.number]),
        pairs=cast("list[PairExample]", scored.data().held_out if scored else []),
        sampling=module.sampling,
        settings=settings,
        max_rows=module.max_rows,
        has_sft="reference" in artefacts,
        reward=reward or MODEL_ALONE,
        policies=roles,
    )


def policies_in(stages: Mapping[str, "ParsedStage"]) -> list[str]:
    """Names of the stages that train a policy beyond SFT; the one by which a run is known first."""
    found = [name for name, stage in stages.items() if stage.stage in POLICY_STAGES]
    return sorted(found, key=lambda name: name != "ppo")


def _reward_of(module: Any, artefact: str | None) -> Reward | None:
    """What the policy was rewarded by, or where it learnt from pairs the run's reward model."""
    if module.stage == "ppo":
        reward: Reward = replace(module.reward, timeout=None)  # it is one of a rollout's responses
        return reward
    return None if artefact is None else Reward(terms_of(artefact))


def _artefact_of(stage: "ParsedStage") -> str:
    return str(stage.folder / "artefact")


def _backbone_with(
    artefacts: Mapping[str, tuple[str, str]], module: Any, template: "ChatTemplate"
) -> "Backbone":
    """The base with a role for each (artefact, its stage); all are read before the base is."""
    from rlhf_forge.backbone.devices import default_device
    from rlhf_forge.modules.roles import (
        expected_of,
        open_backbone,
        read_parent,
        require_its_reference,
    )

    expected = expected_of(module.backbone_config, template)
    found = {
        role: read_parent(folder, expected, stage=stage)
        for role, (folder, stage) in artefacts.items()
    }
    if "reward" in found:
        sft = found["reference"][0].fingerprint if "reference" in found else None
        manifest, scorer = found["reward"]
        require_its_reference(scorer, manifest, sft, where=artefacts["reward"][0])
    backbone = open_backbone(module.backbone_config, default_device())
    backbone.add_bare_role("base" if "reference" in found else "reference")
    for role, (_, weights) in found.items():
        backbone.add_role(role, weights, trainable=False)
    return backbone
