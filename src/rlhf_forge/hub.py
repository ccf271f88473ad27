"""Where a base lies on this machine: a folder, the package itself, or the hub's cache."""

import re
from importlib.resources import files
from pathlib import Path

from rlhf_forge.errors import UserError

PACKAGE_PREFIX = "package:"
CONFIG = "config.json"
TOKENIZER_FILES = ["tokenizer*", "special_tokens_map.json", "chat_template*", CONFIG]
# Mistral's repositories hold a second copy of every weight under this name.
SECOND_COPIES = ["consolidated*"]
HUB_NAME = r"\w[\w.-]*/\w[\w.-]*"


def base_folder(name: str) -> Path:
    """Folder with the weights, config and tokenizer of the base called ``name``.

    Args:
        name: An existing folder, ``package:FOLDER`` for one inside the installed rlhf_forge, or a
            hub name ``owner/model``, which is downloaded once (safetensors and JSON only).

    Raises:
        UserError: If there is no such folder, or the hub cannot or will not give the model.
    """
    return _folder(name, [*TOKENIZER_FILES, "*.json", "*.safetensors"])


def base_here(name: str) -> str:
    """Where the base called ``name`` lies, if it is on this machine: nothing is downloaded.

    Returns:
        ``name``, or for one of the hub its folder in the cache, which may be used in its place.

    Raises:
        UserError: If it is not here.
    """
    if name.startswith(PACKAGE_PREFIX) or Path(name).expanduser().is_dir():
        return name
    if not re.fullmatch(HUB_NAME, name):
        return str(base_folder(name))  # which refuses it
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return str(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        raise UserError(
            f"base {name}: not on this machine",
            hint=f"`hf download {name}`; fit without --dry-run downloads it too",
        ) from None


def config_folder(name: str) -> tuple[Path, bool]:
    """Folder with config.json of the base called ``name``, and whether it was fetched just now.

    That of a base that the shipped configs name is in the package. Of another one on the hub that
    is not here config.json is fetched, and nothing else.

    Raises:
        UserError: As `base_folder`.
    """
    shipped = Path(str(files("rlhf_forge"))) / "bases" / name
    if re.fullmatch(HUB_NAME, name) and not Path(name).is_dir():
        if (shipped / CONFIG).is_file():
            return shipped, False
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(name, CONFIG)
        if isinstance(cached, str):
            return Path(cached).parent, False
        return _from_hub(name, [CONFIG]), True
    return _folder(name, []), False


def tokenizer_folder(name: str) -> Path:
    """Folder with the tokenizer of the base called ``name``; never downloads weights.

    Raises:
        UserError: As `base_folder`.
    """
    return _folder(name, TOKENIZER_FILES)


def _folder(name: str, patterns: list[str]) -> Path:
    if name.startswith(PACKAGE_PREFIX):
        folder = Path(str(files("rlhf_forge"))) / name.removeprefix(PACKAGE_PREFIX)
        if folder.is_dir():
            return folder
        raise UserError(f"{name}: the installed rlhf_forge holds no such folder")
    if name and Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    if not re.fullmatch(HUB_NAME, name):
        raise UserError(
            f"base {name!r}: no such folder, and not a hub name (owner/model)",
            hint="give a folder with config.json and *.safetensors, or a name like "
            "mistralai/Mistral-7B-v0.3",
        )
    return _from_hub(name, patterns)


def _from_hub(name: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=SECOND_COPIES))
    except GatedRepoError:
        raise UserError(
            f"base {name}: the hub gives this model only to accounts that accepted its terms",
            hint=f"accept them at https://huggingface.co/{name}, then `hf auth login`",
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"base {name}: no such folder here, and no such model on the hub (or a private one)",
            hint="check the spelling; for a private model `hf auth login` first",
        ) from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        raise UserError(
            f"base {name}: not on this machine, and the hub cannot be reached "
            f"({type(error).__name__})",
            hint=f"with a network: `hf download {name}`; or copy the model's folder here and set "
            "model.init_args.backbone.path to it",
        ) from None
