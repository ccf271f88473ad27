"""``export``: an adapter, or a merged model, for other tools."""

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rlhf_forge.errors import UserError

if TYPE_CHECKING:
    from rlhf_forge.artefact import Manifest
    from rlhf_forge.backbone.config import BackboneConfig

# Two float32 computations of one log-prob (nats) or raw score agree to about 1e-5.
TOLERANCE = 1e-3

MERGED_CARD = """---
base_model: {base}
library_name: transformers
tags: [rlhf, {stage}]
---

# {stage} on {base}, merged

The adapter of the {stage} stage (fingerprint `{fingerprint}`), added into `{base}` as it was held
in training ({precision}, base fingerprint `{base_fingerprint}`). Against base + adapter its
log-probs differ by at most {largest:.2g} nats per token, {mean:.2g} on average.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")
model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER")
ids = tokenizer.apply_chat_template([{{"role": "user", "content": "Hello"}}], return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=64)[0]))
```
"""


def export(
    artefact: Path, out: Path, merge: bool = False, to: Literal["ollama"] | None = None
) -> int:
    """Write an artefact for stock transformers and peft, and measure that they agree with us.

    Args:
        artefact: Folder of an artefact, such as lightning_logs/quickstart/ppo/artefact.
        out: Folder to write; must not exist.
        merge: Add the adapter into a plain copy of the base: a whole model, not an adapter.
        to: ollama: a merged model in fp16 with a Modelfile, and answers to check it by.
    """
    if out.exists():
        raise UserError(f"{out}: exists already", hint="give a folder that does not exist yet")
    status = write_export(artefact, out, merge=merge, to=to)
    print(out)
    return status


def write_export(
    artefact: Path, out: Path, *, merge: bool = False, to: Literal["ollama"] | None = None
) -> int:
    """As `export`, in place of what is in ``out``, which is there whole until the new one is.

    Returns:
        1 if stock tools compute something else than we do, else 0.

    Raises:
        UserError: If the artefact is none, does not fit its base, or is not to be merged.
    """
    from rlhf_forge.artefact import read_manifest
    from rlhf_forge.serve.models import open_models

    manifest = read_manifest(artefact)
    if (merge or to) and manifest.stage == "reward":
        raise UserError(
            f"{artefact}: a reward model is not merged: its head is no part of a language model",
            hint="export it without --merge and --to",
        )
    base = open_models([str(artefact)]).weights.base
    unfinished = out.with_name(out.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    write = _write_ollama if to else _write_merged if merge else _write_adapter
    try:
        status = write(manifest, artefact, unfinished, base)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    _put(unfinished, out)
    _tell(f"README.md in {out} says how to load it")
    return status


def _put(new: Path, place: Path) -> None:
    """Move a folder to where another one may be; no folder can be renamed onto a full one."""
    old = place.with_name(place.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.replace(old)
    new.replace(place)
    shutil.rmtree(old, ignore_errors=True)


def _write_adapter(manifest: "Manifest", artefact: Path, out: Path, base: "BackboneConfig") -> int:
    from rlhf_forge.backbone.exporting import (
        compare_with_stock,
        export_adapter,
        float32_bytes,
        memory_bytes,
    )
    from rlhf_forge.card import write_card
    from rlhf_forge.evaluation.report_card import read_report

    export_adapter(artefact, out, base=base.path)
    write_card(manifest, out, read_report(artefact))
    if manifest.stage == "reward":
        _tell_scale(manifest, artefact)
    needed = float32_bytes(base.path)
    if needed > memory_bytes():
        _tell(f"not compared with stock peft: that takes {needed / 2**30:.0f} GiB of memory")
        return 0
    gap = compare_with_stock(out, _rows(manifest), base=base.path)
    what = "raw score" if manifest.stage == "reward" else "log-prob"
    _tell(
        f"stock transformers + peft against ours, float32, {len(manifest.golden)} texts: "
        f"largest {what} difference {gap.largest:.2g}"
    )
    if gap.largest <= TOLERANCE:
        return 0
    _tell(f"error: that is more than {TOLERANCE:g}: another tool would not see the trained model")
    return 1


def _write_ollama(manifest: "Manifest", artefact: Path, out: Path, base: "BackboneConfig") -> int:
    from rlhf_forge.backbone.exporting import plain_config
    from rlhf_forge.commands.export_ollama import add_ollama

    status = _write_merged(manifest, artefact, out, base, half=True)
    add_ollama(out, base, plain_config(out, base))
    _tell("Modelfile and check.jsonl: for ollama create")
    return status


def _write_merged(
    manifest: "Manifest", artefact: Path, out: Path, base: "BackboneConfig", *, half: bool = False
) -> int:
    import torch

    from rlhf_forge.backbone.devices import default_device
    from rlhf_forge.backbone.exporting import export_merged

    dtype = torch.float16 if half else base.compute_dtype
    device = default_device()
    gap = export_merged(artefact, out, _rows(manifest), base=base, dtype=dtype, device=device)
    card = MERGED_CARD.format(
        base=manifest.base,
        stage=manifest.stage,
        precision=base.precision,
        fingerprint=manifest.fingerprint[:12],
        base_fingerprint=manifest.base_fingerprint[:12],
        largest=gap.largest,
        mean=gap.mean,
    )
    (out / "README.md").write_text(card, encoding="utf-8")
    _tell(
        f"merged against base + adapter ({base.precision}), {len(manifest.golden)} texts: "
        f"log-prob difference at most {gap.largest:.2g}, on average {gap.mean:.2g} nats per token"
    )
    return 0


def _tell_scale(manifest: "Manifest", artefact: Path) -> None:
    from rlhf_forge.backbone.adapter_files import reads_likelihoods

    _tell(f"scores are (raw - {manifest.reward_mean:.6g}) / {manifest.reward_std:.6g}")
    if reads_likelihoods(artefact):
        _tell(
            "warning: this reward model adds how likely its SFT model finds an answer; other "
            "tools compute its scores without that share"
        )


def _rows(manifest: "Manifest") -> list[tuple[list[int], list[int]]]:
    return [(golden.tokens, golden.targets) for golden in manifest.golden]


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")
