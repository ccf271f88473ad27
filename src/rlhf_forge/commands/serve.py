"""``serve``: answer OpenAI-style requests and score answers."""

import sys
from typing import Literal


def serve(
    paths: list[str],
    host: str = "127.0.0.1",
    port: int = 8000,
    precision: Literal["nf4", "bf16", "fp32"] | None = None,
) -> int:
    """Serve the models of a run, or single artefacts of one base, over HTTP until Ctrl-C.

    Args:
        paths: Run folders like lightning_logs/quickstart, or artefact folders.
        host: Address to bind to; 0.0.0.0 lets other machines in, and there is no key.
        port: Port to bind to, 1024 or above.
        precision: How the base is held; by default as the artefacts were made.
    """
    from rlhf_forge.serve.app import run_server
    from rlhf_forge.serve.models import open_models

    models = open_models(paths, precision=precision)
    url = f"http://{host}:{port}/v1"
    sys.stderr.write(
        f"{url}  chat: {', '.join(models.policies)}  "
        f"scores: {', '.join(models.reward_models) or 'no reward model'}\n"
        "loading; Ctrl-C ends it; try, once it is loaded:\n"
        f"  curl {url}/chat/completions -H 'Content-Type: application/json' -d "
        f'\'{{"model": "{models.policies[-1]}", '
        '"messages": [{"role": "user", "content": "Hello"}]}\'\n'
    )
    run_server(models, host=host, port=port)
    sys.stderr.write("ended\n")
    return 0
