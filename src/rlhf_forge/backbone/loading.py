"""Loading the frozen base."""

import json
from contextlib import ExitStack
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from rlhf_forge.backbone.attention import attention_for
from rlhf_forge.backbone.bitsandbytes_guard import import_bitsandbytes
from rlhf_forge.backbone.config import BackboneConfig
from rlhf_forge.backbone.freed_memory import keep_freed_memory
from rlhf_forge.backbone.kernel_caches import keep_few_kernels
from rlhf_forge.errors import UserError
from rlhf_forge.hub import SECOND_COPIES, base_folder, tokenizer_folder


def load_base(config: BackboneConfig, device: torch.device) -> PreTrainedModel:
    """The frozen causal LM of ``config`` on ``device``, without gradients.

    Raises:
        UserError: If the base is not there, not in safetensors, or not a causal LM.
    """
    folder = base_folder(config.path)
    require_weights(config.path, folder)
    if device.type == "cpu":
        keep_freed_memory()
        keep_few_kernels(config.compute_dtype)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, **_options(config, device))
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"base {config.path}: cannot be loaded: {reason}") from error
    model, report = loaded
    # transformers would fill these with random numbers.
    odd = [*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])]
    if odd:
        raise UserError(f"base {config.path}: {min(odd)} is missing or of another shape")
    return freeze(model)


def require_weights(base: str, folder: Path) -> None:
    """Refuse a base without weights, or with some of its files missing.

    Args:
        base: Its name, for the message.
        folder: Where it lies.

    Raises:
        UserError: Naming the first file that is missing.
    """
    if not _weight_files(folder):
        raise UserError(
            f"base {base}: no *.safetensors file in {folder}",
            hint="only safetensors weights are loaded: a pickle can run code",
        )
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    missing = sorted(name for name in named if not (folder / name).is_file())
    if missing:
        raise UserError(
            f"base {base}: {missing[0]} is missing in {folder}, of {len(named)} files of weights",
            hint=f"download it whole: hf download {base}",
        )


def freeze(model: PreTrainedModel) -> PreTrainedModel:
    """Take all gradients and all dropout from ``model``; returns it.

    ``get_peft_model`` would leave an untied lm_head trainable, so the whole model is frozen here.
    A dropout that is held as a number and not as a module (attention_dropout) is set too.
    """
    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "hidden_dropout", "resid_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def _options(config: BackboneConfig, device: torch.device) -> dict[str, Any]:
    options: dict[str, Any] = {
        "dtype": config.compute_dtype,
        "attn_implementation": attention_for(device),
        "device_map": {"": device},
        "use_safetensors": True,
        "trust_remote_code": False,
        "local_files_only": True,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # they are found in the report
    }
    if config.precision == "nf4":
        import_bitsandbytes()
        options["quantization_config"] = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=config.compute_dtype,
        )
    return options


def context_of(base: str) -> int:
    """Most tokens, prompt and response together, that a base has positions for.

    Args:
        base: Its name, as in a config; no weights are downloaded.

    Raises:
        UserError: If its config does not say.
    """
    try:
        config = json.loads((tokenizer_folder(base) / "config.json").read_text(encoding="utf-8"))
        return int(config["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"base {base}: its config.json does not say max_position_embeddings"
        ) from None


def content_fingerprint(folder: Path) -> str:
    """SHA-256 over every tensor's name, shape and a sample of its rows, and the config.

    Reads a few rows of each tensor, not the whole file: seconds for 7B, and another training of
    the same architecture differs in nearly all of them. How the weights are cut into files does
    not matter.

    Raises:
        UserError: If there is no config, or a weight file is truncated or foreign.
    """
    found = [(path, path.stat()) for path in sorted(folder.glob("*"))]
    return _fingerprint(folder, tuple((path, s.st_size, s.st_mtime_ns) for path, s in found))


@cache
def _fingerprint(folder: Path, stamps: tuple[tuple[Path, int, int], ...]) -> str:
    """Of the files as they are by now: a run asks several times, before and behind its start."""
    config = folder / "config.json"
    if not config.is_file():
        raise UserError(f"base {folder}: config.json is missing")
    digest = sha256(config.read_bytes())
    with ExitStack() as opened:
        tensors: dict[str, Any] = {}
        for path in _weight_files(folder):
            try:
                weights = opened.enter_context(safe_open(path, framework="pt"))
            except SafetensorError as error:
                raise UserError(f"{path}: not a whole safetensors file ({error})") from error
            tensors |= {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118
        for name in sorted(tensors):
            _sample(digest, name, tensors[name])
    return digest.hexdigest()


def _weight_files(folder: Path) -> list[Path]:
    every = sorted(folder.glob("*.safetensors"))
    return [path for path in every if not any(path.match(copy) for copy in SECOND_COPIES)]


def _sample(digest: Any, name: str, tensor: Any) -> None:
    shape = tensor.get_shape()
    digest.update(f"{name}{shape}".encode())
    if not shape:
        return
    for row in sorted({0, shape[0] // 2, shape[0] - 1}):
        digest.update(tensor[row : row + 1].contiguous().view(torch.uint8).numpy().tobytes())
