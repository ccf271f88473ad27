"""Folders for other tools, each measured against what we compute ourselves."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel

from rlhf_forge.backbone.adapter_files import CONFIG, member_folders, read_adapter
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig, Precision
from rlhf_forge.backbone.loading import load_base
from rlhf_forge.backbone.merging import merged_copy
from rlhf_forge.backbone.stock import Row, stock_log_probs, stock_scores
from rlhf_forge.errors import UserError
from rlhf_forge.hub import base_folder

TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "chat_template*")
ROLE = "exported"


@dataclass(frozen=True)
class Difference:
    """How far two computations of the same numbers are apart; 0 for no numbers."""

    largest: float
    mean: float


def export_adapter(artefact: Path, out: Path, *, base: str) -> None:
    """Copy an artefact so that stock peft finds its base.

    Args:
        artefact: What to copy; stays as it is.
        out: Must not exist.
        base: The artefact's base. A hub name stays; what only we can read (package:, a relative
            path) is replaced by the folder's full path.
    """
    read_adapter(artefact)  # what is broken is refused before anything is copied
    shutil.copytree(artefact, out)
    if not Path(base).expanduser().is_dir() and ":" not in base:
        return
    for folder in (out, *member_folders(out)):
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = str(base_folder(base).resolve())
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def compare_with_stock(folder: Path, rows: Sequence[Row], *, base: str) -> Difference:
    """Ours against stock transformers + peft, float32 on the CPU.

    Args:
        folder: An exported adapter.
        rows: Texts to compute.
        base: The adapter's base.

    Returns:
        Of log-probs (nats per token), or of raw scores if the adapter has a head: before its
        scale, and without the reference-likelihood feature, which stock tools do not know.
    """
    scoring = read_adapter(folder).head is not None
    # One after the other: two float32 bases may not fit.
    theirs = _stacked(stock_scores(folder, rows) if scoring else stock_log_probs(folder, rows))
    backbone = _backbone(BackboneConfig(base, "fp32"), torch.device("cpu"), folder)
    ours = _raw_scores(backbone, rows) if scoring else _log_probs(backbone, rows)
    return _difference(ours, theirs)


def export_merged(
    artefact: Path,
    out: Path,
    rows: Sequence[Row],
    *,
    base: BackboneConfig,
    dtype: torch.dtype,
    device: torch.device,
) -> Difference:
    """Write the adapter merged into a plain copy of its base, and measure what that changed.

    Args:
        artefact: A policy's; stays as it is.
        out: Gets weights, config and tokenizer.
        rows: Texts to compute before and after.
        base: The base, held as in training.
        dtype: Of the weights that are written.
        device: To compute on.

    Returns:
        Of log-probs, in nats per token: the folder as loaded again against base + adapter.

    Raises:
        UserError: If the adapter does not fit the base, or a weight is too large for ``dtype``.
    """
    model = load_base(base, device)
    _held_as(merged_copy(model, read_adapter(artefact)), dtype).save_pretrained(out)
    for pattern in TOKENIZER_FILES:
        for path in artefact.glob(pattern):
            shutil.copy(path, out)
    backbone = Backbone(model, base.lora)
    backbone.add_role(ROLE, read_adapter(artefact), trainable=False)
    before = _log_probs(backbone, rows)
    del backbone, model
    after = _log_probs(_backbone(plain_config(out, base), device, None), rows)
    return _difference(before, after)


def plain_config(merged: Path, base: BackboneConfig) -> BackboneConfig:
    """How a merged model is held to be compared with ``base`` and its adapter."""
    plain: Precision = "fp32" if base.precision == "fp32" else "bf16"
    return BackboneConfig(str(merged), plain)


def _held_as(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    model.to(dtype)  # type: ignore[arg-type]  # transformers' stub has other overloads
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise UserError(
                f"{name}: a weight is too large for {str(dtype).removeprefix('torch.')}"
            )
    return model


def float32_bytes(base: str) -> int:
    """Memory that the base takes in float32."""
    total = 0
    for path in base_folder(base).glob("*.safetensors"):
        with safe_open(path, framework="pt") as weights:
            shapes = [weights.get_slice(name).get_shape() for name in sorted(weights.keys())]
            total += sum(prod(shape) for shape in shapes)
    return 4 * total


def memory_bytes() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _backbone(base: BackboneConfig, device: torch.device, adapter: Path | None) -> Backbone:
    backbone = Backbone(load_base(base, device), base.lora)
    if adapter is None:
        backbone.add_bare_role(ROLE)
    else:
        backbone.add_role(ROLE, read_adapter(adapter), trainable=False)
    return backbone


@torch.no_grad()
def _log_probs(backbone: Backbone, rows: Sequence[Row]) -> Tensor:
    found = []
    for tokens, targets in rows:
        ids = torch.tensor([tokens], device=backbone.device)
        mask = torch.tensor([targets], device=backbone.device).bool()
        with backbone.using(ROLE):
            found.append(backbone.log_probs(ids, mask, temperature=1.0)[0][mask])
    return _stacked(found)


@torch.no_grad()
def _raw_scores(backbone: Backbone, rows: Sequence[Row]) -> Tensor:
    """The head's output after the last token, before its scale and without likelihoods."""
    backbone.set_scale(ROLE, mean=0.0, std=1.0)
    found = []
    for tokens, _ in rows:
        with backbone.using(ROLE):
            found.append(backbone.scalars(torch.tensor([tokens], device=backbone.device))[0, -1])
    return _stacked(found)


def _stacked(values: Sequence[Tensor] | Sequence[float]) -> Tensor:
    return torch.cat([torch.as_tensor(value).reshape(-1).cpu() for value in values] or [Tensor()])


def _difference(a: Tensor, b: Tensor) -> Difference:
    gaps = (a - b).abs()
    return Difference(gaps.max().item(), gaps.mean().item()) if len(gaps) else Difference(0.0, 0.0)
