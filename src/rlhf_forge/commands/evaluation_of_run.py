"""An evaluator over the artefacts of a run."""

from pathlib import Path
from typing import cast

from rlhf_forge.data.tokenize import PairExample, PromptExample
from rlhf_forge.evaluation.summary import EvaluationSettings, Evaluator


def settings_of(place: Path) -> EvaluationSettings:
    """What ``evaluate.yaml`` in the folder says, or the defaults.

    Raises:
        UserError: If a key is unknown, or its value of the wrong type or out of range, or a
            function is not there.
    """
    from rlhf_forge.config_files import read_config
    from rlhf_forge.evaluation.judges import load_function
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


def evaluator_of(place: Path, stages: dict[str, list[str]]) -> Evaluator:
    """Base, SFT, PPO and reward model of a run on one backbone, with its held-out data.

    Args:
        place: Folder of the configs.
        stages: Command line of each stage.

    Raises:
        UserError: If an artefact is missing, of another stage, or not made with this base,
            tokenizer and template.
    """
    from rlhf_forge.backbone.devices import default_device
    from rlhf_forge.modules.roles import expected_of, open_backbone, read_parent
    from rlhf_forge.parsed_stage import parsed_stage

    settings = settings_of(place)
    ppo, reward = (parsed_stage(stages[stage]) for stage in ("ppo", "reward"))
    prompts, pairs = ppo.data(), reward.data()
    module = ppo.module()
    has_sft = module.reference == "sft"
    expected = expected_of(module.backbone_config, prompts.template)
    parents = {"policy": (ppo.folder / "artefact", "ppo"), "reward": (module.reward, "reward")}
    if has_sft:
        parents["reference"] = (module.sft, "sft")
    found = {
        role: read_parent(str(folder), expected, stage=stage)
        for role, (folder, stage) in parents.items()
    }
    backbone = open_backbone(module.backbone_config, default_device())
    backbone.add_bare_role("base" if has_sft else "reference")
    for role, (_, weights) in found.items():
        backbone.add_role(role, weights, trainable=False)
    return Evaluator(
        backbone=backbone,
        template=prompts.template,
        prompts=cast("list[PromptExample]", prompts.held_out[: settings.number]),
        pairs=cast("list[PairExample]", pairs.held_out),
        sampling=module.sampling,
        settings=settings,
        has_sft=has_sft,
    )
