"""``plan``: memory and time of a stage, before anything is loaded."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlhf_forge.errors import UserError

if TYPE_CHECKING:
    from rlhf_forge.parsed_stage import ParsedStage
    from rlhf_forge.planning.look import Look

HELP = """\
usage: python -m rlhf_forge plan --config FILE [--memory SIZE] [--measure] [--KEY VALUE ...]

Memory and time of a stage, before anything is loaded: does it fit, and if not, which key to change.

  --config FILE   a stage's config, as for fit; every key of fit may follow
  --memory SIZE   plan for a GPU with so much memory, such as 12GiB, and propose settings
                  (with --trainer.accelerator cpu: for a CPU)
  --measure       then load the base and run one real step on the longest rows, and compare
"""


@dataclass(frozen=True)
class Asked:
    """A command line.

    Attributes:
        memory: Bytes to plan for; None: those that are free here.
        measure: Whether to run a step.
        keys: What stands there of a `fit`.
    """

    memory: int | None
    measure: bool
    keys: list[str]


def plan(arguments: Sequence[str]) -> int:
    """Print the plan of a stage.

    Args:
        arguments: What stands behind ``plan``.

    Returns:
        1 if the stage does not fit.

    Raises:
        UserError: For a mistake in the command line or the config, or a base without a config.
    """
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(HELP)
        return 0
    asked = asked_of(arguments)
    from rlhf_forge.commands.plan_lines import lines_of
    from rlhf_forge.parsed_stage import parsed_stage
    from rlhf_forge.planning.device import memory_available
    from rlhf_forge.planning.verdict import word_of

    stage = parsed_stage(asked.keys)
    data, unread = _data_of(stage)
    look = _look(stage, data, elsewhere=asked.memory is not None)
    available = memory_available(look.device) if asked.memory is None else asked.memory
    sys.stdout.writelines(
        f"{line}\n" for line in lines_of(stage, look, available, asked.memory, unread)
    )
    if asked.measure:
        from rlhf_forge.commands.plan_measure import measured_line

        sys.stdout.write(measured_line(stage) + "\n")
    return 1 if word_of(look.plan, available) == "does not fit" else 0


def asked_of(arguments: Sequence[str]) -> Asked:
    """The options of ``plan`` taken out from among the keys.

    Raises:
        UserError: If a size is none, or there is no config.
    """
    from rlhf_forge.planning.sizes import bytes_of

    memory, measure, keys = None, False, list[str]()
    rest = iter(arguments)
    for word in rest:
        option, equals, value = word.partition("=")
        if option == "--memory":
            memory = bytes_of(value if equals else next(rest, ""))
        elif word == "--measure":
            measure = True
        else:
            keys.append(word)
    if not any(word.partition("=")[0] in {"--config", "-c"} for word in keys):
        raise UserError("plan: no config", hint="python -m rlhf_forge plan --config sft.yaml")
    return Asked(memory, measure, keys)


def _look(stage: "ParsedStage", data: Any, *, elsewhere: bool) -> "Look":
    """For a GPU where memory is given and no accelerator is named: it need not be here."""
    from rlhf_forge.planning.look import look_at

    if elsewhere and stage.config.trainer.accelerator == "auto":
        return look_at(stage.config, stage=stage.stage, data=data, cuda=True)
    return look_at(stage.config, stage=stage.stage, data=data)


def _data_of(stage: "ParsedStage") -> tuple[Any, str]:
    """The data, if it and the tokenizer are here, else why it was not read: nothing is fetched."""
    from rlhf_forge.hub import base_here

    try:
        base_here(stage.config.model.init_args.backbone.path)
        return stage.data(), ""
    except UserError as error:
        return None, str(error)
