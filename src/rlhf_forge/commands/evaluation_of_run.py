"""An evaluator over the artefacts of a run."""

from pathlib import Path
from typing import Any, cast

from rlhf_forge.data.tokenize import PairExample, PromptExample
from rlhf_forge.evaluation.summary import EvaluationSettings, Evaluator


def settings_of(place: Path) -> EvaluationSettings:
    """What ``evaluate.yaml`` in the folder says, or the defaults.

    Raises:
        UserError: If a key is unknown or of the wrong type, or a function is not there.
    """
    from rlhf_forge.config_files import read_config
    from rlhf_forge.evaluation.judges import load_function
    from rlhf_forge.parsing import TerseParser

    parser = TerseParser()
    parser.add_class_arguments(EvaluationSettings, "evaluate")
    path = place / "evaluate.yaml"
    if not path.is_file():
        return EvaluationSettings()
    parsed = parser.parse_object({"evaluate": read_config(path)})
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
    """
    import torch

    from rlhf_forge.backbone.adapter_files import read_adapter
    from rlhf_forge.modules.roles import open_backbone
    from rlhf_forge.parsed_stage import parsed_stage

    settings = settings_of(place)
    ppo, reward = (parsed_stage(stages[stage]) for stage in ("ppo", "reward"))
    prompts, pairs = ppo.data(), reward.data()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = ppo.module()
    backbone = open_backbone(module.backbone_config, device)
    backbone.add_bare_role("base")
    folders: dict[str, Any] = {
        "reference": module.sft,
        "policy": ppo.folder / "artefact",
        "reward": module.reward,
    }
    for role, folder in folders.items():
        backbone.add_role(role, read_adapter(Path(folder)), trainable=False)
    return Evaluator(
        backbone=backbone,
        template=prompts.template,
        prompts=cast("list[PromptExample]", prompts.held_out[: settings.number]),
        pairs=cast("list[PairExample]", pairs.held_out),
        sampling=module.sampling,
        settings=settings,
    )
