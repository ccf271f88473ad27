"""Log-probs that a frozen role gives to pairs of responses, on disk."""

import os
from pathlib import Path

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rlhf_forge.errors import UserError

NAME = "log_probs"
FINGERPRINT = "fingerprint"


def write_log_probs(log_probs: Float[Tensor, "two pairs"], path: Path, *, fingerprint: str) -> None:
    """Write beside the target, then rename: the file is whole or not there.

    Args:
        log_probs: Of the chosen and the rejected responses, nats; on the CPU.
        path: The file; its folder is made if missing.
        fingerprint: Of all that they were computed from.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    save_file({NAME: log_probs.contiguous()}, unfinished, metadata={FINGERPRINT: fingerprint})
    unfinished.replace(path)


def read_log_probs(path: Path, *, fingerprint: str) -> Float[Tensor, "two pairs"]:
    """Read what `write_log_probs` wrote.

    Raises:
        UserError: If the file is truncated or foreign, or was computed from something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found = (file.metadata() or {}).get(FINGERPRINT)
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path}: truncated or not a safetensors file ({error})") from None
    if found != fingerprint or tensors.keys() != {NAME}:
        raise UserError(f"{path}: not the log-probs of this run's pairs under its reference")
    return tensors[NAME]
