"""``serve``: answer OpenAI-style requests and score answers."""

import sys
from pathlib import Path
from typing import Literal


def serve(  # noqa: PLR0913 - an argument is an option
    paths: list[str],
    config: Path | None = None,
    host: str | None = None,
    port: int | None = None,
    precision: Literal["nf4", "bf16", "fp32"] | None = None,
    slots: int | None = None,
    queue: int | None = None,
    max_length: int | None = None,
    feedback: str | None = None,
) -> int:
    """Serve the models of a run, or single artefacts of one base, over HTTP until Ctrl-C.

    Args:
        paths: Run folders like lightning_logs/quickstart, or artefact folders.
        config: YAML file with these options, and more; docs/serving.md lists them.
        host: Address to bind to, 127.0.0.1 by default; 0.0.0.0 lets other machines in, and needs a
            key in RLHF_FORGE_API_KEYS.
        port: Port to bind to, 8000 by default.
        precision: How the base is held; by default as the artefacts were made.
        slots: Answers generated at once, 16 by default.
        queue: Answers that may wait for a slot, 64 by default.
        max_length: Most tokens of prompt and answer; by default the base's context, at most 4096.
        feedback: File of the votes cast on the page at /, feedback.sqlite by default; made with the
            first of them.
    """
    from rlhf_forge.serve.app import run_server
    from rlhf_forge.serve.models import open_models
    from rlhf_forge.serve.settings import read_keys, read_settings

    typed = {
        "host": host,
        "port": port,
        "precision": precision,
        "slots": slots,
        "queue": queue,
        "max_length": max_length,
        "feedback": feedback,
    }
    settings = read_settings(config, typed)
    keys = read_keys(settings)
    models = open_models(paths, precision=settings.precision)
    url = f"http://{settings.host}:{settings.port}/v1"
    key = "-H 'Authorization: Bearer KEY' " if keys else ""
    sys.stderr.write(
        f"{url}  chat: {', '.join(models.policies)}  "
        f"scores: {', '.join(models.reward_models) or 'no reward model'}\n"
        f"page: {url.removesuffix('v1')}  votes: {settings.feedback}\n"
        "loading; Ctrl-C ends it; try, once it is loaded:\n"
        f"  curl {url}/chat/completions -H 'Content-Type: application/json' {key}-d "
        f'\'{{"model": "{models.policies[-1]}", '
        '"messages": [{"role": "user", "content": "Hello"}]}\'\n'
    )
    run_server(models, settings, keys)
    sys.stderr.write("ended\n")
    return 0
