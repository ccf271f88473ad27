"""Adapters and heads on disk, in the format stock peft loads."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhf_forge.backbone.bitsandbytes_guard import import_peft
from rlhf_forge.backbone.config import LoraSpec
from rlhf_forge.backbone.scalar_head import HeadWeights
from rlhf_forge.errors import UserError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
HEAD = "head.safetensors"
MEMBER = "member_"
PEFT_PREFIX = "base_model.model."
# Where stock AutoModelForSequenceClassification under peft looks for a reward model's head.
PEFT_HEAD = "base_model.model.score.weight"
# Keys of peft's config that, if set, mean another computation than B A x.
NOT_PLAIN = (
    "use_dora",
    "use_rslora",
    "use_qalora",
    "rank_pattern",
    "alpha_pattern",
    "alora_invocation_tokens",
)


@dataclass(frozen=True)
class AdapterWeights:
    """One role's weights, on the CPU.

    Attributes:
        lora: The shape they have.
        pairs: For each adapted layer, by its name in the base model: A [r, in] and B [out, r].
        head: The scalar head; None if the role has none.
        members: The other members of an ensemble that this is the first of.
    """

    lora: LoraSpec
    pairs: dict[str, tuple[Float[Tensor, "rank inner"], Float[Tensor, "outer rank"]]]
    head: HeadWeights | None = None
    members: tuple["AdapterWeights", ...] = ()


def write_adapter(weights: AdapterWeights, folder: Path, *, base: str) -> None:
    """Write ``weights`` into ``folder`` as peft writes them, the head beside them.

    A role with a head is written as a sequence classifier with one label, so that its raw scores
    come out of stock transformers + peft too. The other members of an ensemble are adapters of
    their own, in folders within.

    Args:
        weights: What to write.
        folder: Made if missing.
        base: Name or path of the base, for peft's ``base_model_name_or_path``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, (down, up) in weights.pairs.items():
        tensors[f"{PEFT_PREFIX}{name}.lora_A.weight"] = down.contiguous()
        tensors[f"{PEFT_PREFIX}{name}.lora_B.weight"] = up.contiguous()
    if weights.head is not None:
        _write_head(weights.head, folder / HEAD)
        tensors[PEFT_HEAD] = weights.head.weight.contiguous()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    import_peft().LoraConfig(
        r=weights.lora.r,
        lora_alpha=weights.lora.alpha,
        target_modules=sorted({name.rsplit(".", 1)[-1] for name in weights.pairs}),
        task_type="CAUSAL_LM" if weights.head is None else "SEQ_CLS",
        modules_to_save=None if weights.head is None else ["score"],
        base_model_name_or_path=base,
        inference_mode=True,
    ).save_pretrained(str(folder))
    for number, member in enumerate(weights.members, start=1):
        write_adapter(member, folder / f"{MEMBER}{number}", base=base)


def read_adapter(folder: Path) -> AdapterWeights:
    """Read what `write_adapter` or peft wrote.

    Raises:
        UserError: If a file is missing, truncated, or not a plain LoRA adapter of finite numbers.
    """
    lora = _read_lora(folder / CONFIG)
    tensors = _read_tensors(folder / WEIGHTS)
    head = _read_head(folder / HEAD) if (folder / HEAD).exists() else None
    if head is not None:
        tensors.pop(PEFT_HEAD, None)
    pairs = {}
    suffix = ".lora_A.weight"
    for key in [key for key in tensors if key.endswith(suffix)]:
        name = key.removeprefix(PEFT_PREFIX).removesuffix(suffix)
        other = key.removesuffix(suffix) + ".lora_B.weight"
        if other not in tensors:
            raise UserError(f"{folder / WEIGHTS}: lacks {other}")
        down, up = tensors.pop(key), tensors.pop(other)
        if (down.shape[0], up.shape[-1]) != (lora.r, lora.r):
            raise UserError(
                f"{folder / WEIGHTS}: {name} is of rank {down.shape[0]} and {up.shape[-1]}, where "
                f"{CONFIG} says r {lora.r}"
            )
        pairs[name] = (down, up)
    if tensors:
        raise UserError(f"{folder / WEIGHTS}: not a plain LoRA adapter: holds {min(tensors)}")
    members = tuple(read_adapter(member) for member in member_folders(folder))
    return AdapterWeights(lora, pairs, head, members)


def member_folders(folder: Path) -> list[Path]:
    """Where the other members of an ensemble lie, in their order; empty for a single adapter.

    Raises:
        UserError: If one is missing in between.
    """
    there = {path.name for path in folder.glob(f"{MEMBER}*")}
    found = [folder / f"{MEMBER}{number}" for number in range(1, len(there) + 1)]
    for path in found:
        if path.name not in there:
            raise UserError(f"{path}: missing, of an ensemble of {len(there) + 1}")
    return found


def reads_likelihoods(folder: Path) -> bool:
    """Whether the adapter's head has the reference-likelihood feature on."""
    head = folder / HEAD
    return head.exists() and _read_head(head).likelihood is not None


def _write_head(head: HeadWeights, path: Path) -> None:
    tensors = {"mean": torch.tensor(head.mean), "std": torch.tensor(head.std)}
    if head.likelihood is not None:
        tensors["likelihood"] = torch.tensor(head.likelihood)
        tensors["likelihood_mean"] = torch.tensor(head.likelihood_mean)
    save_file({"weight": head.weight.contiguous(), **tensors}, path)


def _read_head(path: Path) -> HeadWeights:
    tensors = _read_tensors(path)
    for name in ("weight", "mean", "std"):
        if name not in tensors:
            raise UserError(f"{path}: holds no {name}")
    numbers = {name: float(value) for name, value in tensors.items() if name != "weight"}
    try:
        return HeadWeights(tensors["weight"], **numbers)
    except TypeError:
        raise UserError(f"{path}: not a scalar head: holds {sorted(tensors)}") from None


def _read_lora(path: Path) -> LoraSpec:
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path.parent}: no adapter here ({CONFIG} is missing)") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: broken JSON at line {error.lineno}") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise UserError(f"{path}: not the config of a LoRA adapter (peft_type is not LORA)")
    for key in NOT_PLAIN:
        if config.get(key):
            raise UserError(f"{path}: {key} is not supported: plain LoRA adapters only")
    return LoraSpec(r=_whole(config, "r", path), alpha=_whole(config, "lora_alpha", path))


def _whole(config: dict[str, Any], key: str, path: Path) -> int:
    value = config.get(key)
    if not isinstance(value, int | float) or value < 1 or value != int(value):
        raise UserError(f"{path}: {key} must be a whole number, 1 or more, got {value!r}")
    return int(value)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Finite ones: rows of several adapters share products, where 0 times NaN is NaN."""
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: missing") from None
    except SafetensorError as error:
        raise UserError(f"{path}: truncated or not a safetensors file ({error})") from None
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise UserError(f"{path}: {name} holds NaN or infinity")
    return tensors
