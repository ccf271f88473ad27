"""How every run is set up, unless its config says otherwise."""

import logging
import os
import warnings
from pathlib import Path
from typing import Any

from rlhf_forge.callbacks.predictions import PredictionWriter
from rlhf_forge.callbacks.progress import ForgeProgressBar
from rlhf_forge.callbacks.reward_metrics import RewardMetrics
from rlhf_forge.callbacks.samples import SampleWriter

OURS = "rlhf_forge"


def trainer_defaults() -> dict[str, Any]:
    """Arguments of the Trainer; the callbacks are added to those of the config."""
    return {
        "precision": "32-true",
        "devices": 1,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "use_distributed_sampler": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "check_val_every_n_epoch": None,
        "callbacks": [ForgeProgressBar(), PredictionWriter(), RewardMetrics(), SampleWriter()],
    }


def quiet() -> None:
    """Nothing on the screen that a person cannot act on."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", module=r"torch\.utils\.data\..*")
    warnings.formatwarning = in_one_line


def in_one_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """A warning as a person reads it; where it comes from only if it is not ours."""
    ours = OURS in Path(filename).parts
    return f"warning: {message}{'' if ours else f' ({filename}:{lineno})'}\n"
