"""How many tokens of a step a GPU has room for: found once, before the first step."""

import json
import os
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from rlhf_forge import ranks
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.data.module import PreferenceDataModule, show
from rlhf_forge.errors import UserError
from rlhf_forge.modules.goldens import setup_name
from rlhf_forge.run_folder import LOGS

# Beside the runs: what one has found, the next one of its kind need not.
KNOWN = LOGS / "micro_batch_tokens.json"
# More at once is no faster: products are as large as they need to be.
MOST = 65536
# Held besides the weights of what trains: its gradients and Adam's two moments.
COPIES = 3
# This share of the memory is left alone: real steps differ in shape, and leave holes.
MARGIN = 1 / 16


class MicroBatchFinder(Callback):
    """What ``micro_batch_tokens: auto`` asks for.

    On a GPU the first of `MOST`, its half, its quarter, ... with which a step over the longest rows
    that the config allows has room. On a CPU, whose memory does not run out in a way that could be
    tried, the module's own. A run that goes on from a checkpoint has its value from there. Should
    memory run out later all the same, the step is taken in smaller parts (`within_memory`).

    Raises:
        UserError: If the file of known sizes is not one.
    """

    def __init__(self) -> None:
        self.goes_on = False

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.goes_on = "sizes" in checkpoint

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module: Any = pl_module
        if self.goes_on:
            why = "from the checkpoint"
        elif not _may_be_tried(module.backbone.device):
            why = "as on any CPU"
        else:
            kind = _kind_of(module, trainer)
            found = ranks.from_first(lambda: _known().get(kind))
            why = f"found by an earlier run, see {KNOWN}"
            if found is None:
                longest = _longest(module, trainer)
                own = largest_that_fits(module.backbone, module.role, longest)
                found = int(-ranks.largest(-own))
                why = f"what fits of rows of {longest} tokens"
                _keep(kind, found)
            module.micro_batch_tokens = found
        show([f"micro_batch_tokens: {module.micro_batch_tokens} (auto: {why})"])


def largest_that_fits(backbone: Backbone, role: str, longest: int) -> int:
    """The most tokens of one forward and backward there is room for; one row at the least.

    Args:
        backbone: With all roles of the run.
        role: That trains.
        longest: Tokens of a row.
    """
    tokens = MOST
    while tokens >= 2 * longest and not _fits(backbone, role, tokens // longest, longest):
        tokens //= 2
    return max(tokens, longest)


def _fits(backbone: Backbone, role: str, rows: int, longest: int) -> bool:
    """Whether a step has room, every token of it a target, beside what it will hold later."""
    device = backbone.device
    trained = [p for p in backbone.parameters() if p.requires_grad]
    tokens = torch.zeros(rows, longest, dtype=torch.long, device=device)
    targets = torch.ones_like(tokens, dtype=torch.bool)
    targets[:, 0] = False
    try:
        held = [torch.empty_like(p) for p in trained for _ in range(COPIES)]
        held.append(torch.empty(_margin(device), dtype=torch.uint8, device=device))
        with backbone.using(role):
            log_probs, _ = backbone.log_probs(tokens, targets, temperature=1.0)
        torch.autograd.backward(log_probs.sum())
    except torch.OutOfMemoryError:
        return False
    finally:
        backbone.zero_grad(set_to_none=True)
    return True


def _may_be_tried(device: torch.device) -> bool:
    """Whether memory that runs out is an error that one can go on from, and not the end."""
    return device.type != "cpu"


def _margin(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    torch.cuda.empty_cache()
    return int(torch.cuda.get_device_properties(device).total_memory * MARGIN)


def _longest(module: Any, trainer: Trainer) -> int:
    """Tokens of the longest row of a step: in PPO a response stands behind the longest prompt."""
    data: PreferenceDataModule = trainer.datamodule  # type: ignore[attr-defined]
    response = module.sampling.max_new_tokens if module.data_kind == "prompts" else 0
    return data.max_length + int(response)


def _kind_of(module: Any, trainer: Trainer) -> str:
    """All that the size depends on."""
    config, backbone = module.backbone_config, module.backbone
    trained = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
    parts = {
        "stage": module.stage,
        "base": module.expected.base_fingerprint[:16],
        "precision": config.precision,
        "gradient_checkpointing": config.gradient_checkpointing,
        "trained": trained,
        "longest": _longest(module, trainer),
        "device": setup_name(backbone.device),
    }
    return ", ".join(f"{name} {value}" for name, value in parts.items())


def _known() -> dict[str, int]:
    """Sizes found by runs before, by what they depend on."""
    if not KNOWN.is_file():
        return {}
    try:
        found = json.loads(KNOWN.read_text(encoding="utf-8"))
        return {str(kind): int(size) for kind, size in found.items()}
    except (ValueError, AttributeError, TypeError):
        raise UserError(
            f"{KNOWN}: not a file of sizes", hint="delete it: they are found anew"
        ) from None


@rank_zero_only
def _keep(kind: str, size: int) -> None:
    KNOWN.parent.mkdir(parents=True, exist_ok=True)
    draft = KNOWN.with_suffix(f".tmp-{os.getpid()}")
    draft.write_text(json.dumps(_known() | {kind: size}, indent=1) + "\n", encoding="utf-8")
    draft.replace(KNOWN)
