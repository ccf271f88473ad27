"""From a parsed stage to its plan: nothing is loaded but config.json of its base."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rlhf_forge.backbone.flash_attention import flash_takes
from rlhf_forge.backbone.packed_decoder import ANGLES_BY_LENGTH
from rlhf_forge.errors import UserError
from rlhf_forge.functional.products import has_bf16_units
from rlhf_forge.hub import CONFIG, config_folder
from rlhf_forge.planning.demand import Demand, demand_of, demand_of_limits, with_least_responses
from rlhf_forge.planning.plan import Plan, plan_of
from rlhf_forge.planning.setup import Setup, setup_of
from rlhf_forge.planning.shape import Shape
from rlhf_forge.planning.sizes import gib

CPUS = ("cpu",)
# What `rlhf_forge.backbone.packed_decoder` can pack.
PACKED_MODELS = frozenset({"mistral", "llama"})


@dataclass(frozen=True)
class Look:
    """What is known of a stage before it starts.

    Attributes:
        setup: Of its config.
        demand: Rows of its steps.
        folder: Where the base's config.json lies.
    """

    setup: Setup
    demand: Demand
    folder: Path

    @property
    def plan(self) -> Plan:
        """Its peak memory."""
        return plan_of(self.setup, self.demand)

    @property
    def device(self) -> torch.device:
        """That it runs on."""
        return torch.device("cuda" if self.setup.cuda else "cpu")

    @property
    def least(self) -> int:
        """Bytes that the run cannot do without: one row at a time, and responses of one token.

        On a GPU steps are taken in smaller parts until they have room, and how long responses are
        is known of none.
        """
        alone = min(1, self.setup.generated)
        setup = replace(self.setup, micro_batch_tokens=1, generated=alone, max_new_tokens=1)
        plan = plan_of(setup, with_least_responses(self.setup, self.demand))
        # What is free on a GPU is free beside the context, which is there by then.
        return plan.comparable(cuda=setup.cuda)["low"]

    def planned(self, setup: Setup) -> Plan:
        """The plan of the same rows under another setup."""
        return plan_of(setup, self.demand)


def look_at(config: Any, *, stage: str, data: Any = None, cuda: bool | None = None) -> Look:
    """Look at a stage.

    Args:
        config: As parsed.
        stage: sft, reward, dpo or ppo.
        data: Its data module, set up; None: every row is as long as the config lets it be.
        cuda: Whether it runs on a GPU; None: as Lightning will choose here.

    Raises:
        UserError: If the base's shape is not to be had.
    """
    path = str(config.model.init_args.backbone.path)
    folder, fetched = config_folder(path)
    if fetched:
        sys.stderr.write(f"base {path}: its config.json alone was fetched from the hub\n")
    told = _told(folder, path)
    shape = Shape.of(told, path)
    cuda = _on_gpu(config.trainer.accelerator) if cuda is None else cuda
    precision = config.model.init_args.backbone.precision
    packs = _packs(told, shape, precision, cuda=cuda)
    setup = setup_of(config, shape, stage=stage, cuda=cuda, packs=packs)
    if data is None:
        return Look(setup, demand_of_limits(setup), folder)
    return Look(setup, demand_of(setup, data.train.examples, data.stream()), folder)


def _told(folder: Path, base: str) -> Any:
    try:
        return json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"base {base}: its {CONFIG} cannot be read: {error}") from None


def _on_gpu(accelerator: object) -> bool:
    return accelerator not in CPUS and torch.cuda.is_available()


def _packs(told: dict[str, Any], shape: Shape, precision: str, *, cuda: bool) -> bool:
    """As `rlhf_forge.backbone.packed_decoder.can_pack` will say of the loaded model.

    A GPU, which need not be here, is taken to be an Ampere or newer.
    """
    if cuda:
        is_fast = precision != "fp32" and flash_takes(shape.head)
    else:
        is_fast = precision == "fp32" or has_bf16_units("cpu")
    rotation = told.get("rope_scaling") or told.get("rope_parameters") or {}
    return (
        is_fast
        and rotation.get("rope_type", rotation.get("type")) not in ANGLES_BY_LENGTH
        and told.get("model_type") in PACKED_MODELS
        and told.get("hidden_act", "silu") == "silu"
        and told.get("sliding_window") is None
    )


def require_fits(least: int, plan: Plan, available: int, hint: Callable[[], str]) -> None:
    """Refuse what cannot fit.

    Raises:
        UserError: If not even ``least`` bytes are there.
    """
    if least > available:
        raise UserError(
            f"memory: the run needs {gib(least)} at least and {gib(plan.expected)} as planned, "
            f"and {gib(available)} are free",
            hint=hint(),
        )
