"""The words of the command line, and the help over all of them."""

import difflib
from collections.abc import Iterable, Sequence

STAGES = {
    "fit": "train one stage: SFT, reward model, DPO or PPO",
    "validate": "held-out metrics of a trained stage",
    "test": "the same, logged as test/*",
    "predict": "write responses or scores as JSON lines",
}
COMMANDS = {
    "pipeline": "run all stages of a folder, then evaluate and export",
    "evaluate": "a policy against another; --reward: a reward model's card",
    "inspect-data": "find what is wrong with preference data before training",
    "plan": "memory and time of a stage, before anything is loaded",
    "report": "one page about a run: what to look at first, curves, samples",
    "export": "write an adapter, or a merged model, for other tools",
    "chat": "talk to a trained policy, also from stdin",
    "serve": "answer OpenAI-style requests and score answers",
    "export-feedback": "votes of the served page as a file that fit reads",
    "import-feedback": "ratings exported by Open WebUI into a database of votes",
    "configs": "list the presets",
    "env": "versions and devices, for a bug report",
}
# A command that is another one with an option.
FORMS = {
    "evaluate": ("--reward", "evaluate_reward"),
    "inspect-data": ("--explain", "explain_rule"),
}
# A command that takes the keys of fit behind its own options.
PLAN = "plan"
# Behind fit; no key, as it is no part of what a run is.
DRY_RUN = "--dry-run"

USAGE = "\n".join(
    [
        "usage: python -m rlhf_forge COMMAND [options]",
        "",
        "SFT, reward model and PPO on one 4-bit base and one GPU.",
        "",
        *(f"  {word:<17}{what}" for word, what in (STAGES | COMMANDS).items()),
        "",
        "  python -m rlhf_forge pipeline configs/quickstart",
        "  python -m rlhf_forge fit --config sft.yaml --data.path mine.jsonl",
        "  python -m rlhf_forge chat lightning_logs/quickstart/ppo/artefact",
        "COMMAND --help lists the options of a command.",
        "",
    ]
)


def form_of(word: str, arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The function that a command line calls, and what it is called with."""
    option, other = FORMS.get(word, (None, ""))
    if option not in arguments:
        return word.replace("-", "_"), list(arguments)
    return other, [argument for argument in arguments if argument != option]


def nearest(word: str, known: Iterable[str]) -> str | None:
    """``did you mean X?`` for the known word most like ``word``; None if none is like it."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else None
