"""How a server runs: bounds, addresses and keys, from a YAML file and the command line."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rlhf_forge.backbone.config import Precision
from rlhf_forge.config_files import read_config
from rlhf_forge.errors import UserError

Host = Literal["127.0.0.1", "0.0.0.0", "::"]
LOOPBACK: Host = "127.0.0.1"
KEYS = "RLHF_FORGE_API_KEYS"
# Slots times this many tokens of keys and values are what the cache may grow to.
MAX_LENGTH = 4096


class Settings(BaseModel):
    """Keys of the YAML file; the command line has the same, and goes before it.

    Attributes:
        host: Address to bind to; any but 127.0.0.1 needs keys.
        port: Port to bind to.
        precision: How the base is held; None: as the artefacts were made.
        slots: Answers that are generated at once.
        queue: Answers that may wait for a slot; beyond them a request is refused.
        max_length: Most tokens of a prompt and its answer; None: the base's context, at most 4096.
        prefill_tokens: Prompt tokens read at most between two steps of the running answers.
        deadline: Seconds until a request is given up, waiting and answering together.
        drain: Seconds that running answers get when the server is told to end.
        hosts: Host names that a server on 127.0.0.1 answers to, besides its own: a proxy's.
        feedback: File of the votes cast on the page; made with the first of them.
        keys_file: File with an API key a line; more in the variable RLHF_FORGE_API_KEYS, with
            commas between them.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    host: Host = LOOPBACK
    port: Annotated[int, Field(ge=1024, le=65535)] = 8000
    precision: Precision | None = None
    slots: Annotated[int, Field(ge=1, le=1024)] = 16
    queue: Annotated[int, Field(ge=0, le=10_000)] = 64
    max_length: Annotated[int, Field(ge=2)] | None = None
    prefill_tokens: Annotated[int, Field(ge=1)] = 512
    deadline: Annotated[float, Field(gt=0)] = 120.0
    drain: Annotated[int, Field(ge=0)] = 10
    hosts: list[str] = []
    feedback: str = "feedback.sqlite"
    keys_file: str | None = None

    @property
    def capacity(self) -> int:
        """Answers that are taken at once, running and waiting."""
        return self.slots + self.queue


def read_settings(config: Path | None, typed: dict[str, Any]) -> Settings:
    """The settings of a file, and over them what was typed.

    Args:
        config: A YAML file; None for none.
        typed: Values by key; None for what was not typed.

    Raises:
        UserError: Naming the file and the key at fault.
    """
    given = {} if config is None else _read(config)
    try:
        return Settings.model_validate(given | {k: v for k, v in typed.items() if v is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        where = f"{config}: " if config is not None and typed.get(key) is None else "--"
        message = first["msg"].replace("Extra inputs are not permitted", "no such key")
        known = ", ".join(Settings.model_fields)
        hint = f"keys: {known}" if first["type"] == "extra_forbidden" else None
        raise UserError(f"{where}{key}: {message}, got {first['input']!r}", hint=hint) from None


def _read(config: Path) -> dict[str, Any]:
    try:
        return read_config(config)
    except OSError as error:
        raise UserError(f"--config {config}: cannot be read: {error.strerror}") from None


def read_keys(settings: Settings) -> tuple[bytes, ...]:
    """The API keys, from the environment and from the file.

    Raises:
        UserError: If the file cannot be read, or others could reach a server without keys.
    """
    lines = os.environ.get(KEYS, "").split(",")
    if settings.keys_file is not None:
        try:
            lines += Path(settings.keys_file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"keys_file {settings.keys_file}: cannot be read: {error}") from None
    keys = tuple(line.strip().encode() for line in lines if line.strip())
    if settings.host != LOOPBACK and not keys:
        raise UserError(
            f"--host {settings.host}: other machines could use the server, and there is no key",
            hint=f"set {KEYS} to a secret, or name a keys_file",
        )
    return keys


HOSTS: tuple[str, ...] = get_args(Host)
