"""``python -m rlhf_forge``: Lightning's words go to the trainer, every other to a command."""

import sys
from collections.abc import Sequence

from rlhf_forge.errors import UserError
from rlhf_forge.words import COMMANDS, STAGES, USAGE, nearest


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit status.

    0 is success, 1 a finding (a check that failed), 2 a mistake of the person who typed, 130
    Ctrl-C. A mistake is told in one line, at most with one hint, and without a traceback.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        if error.hint is not None:
            sys.stderr.write(f"hint: {error.hint}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return 130


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        sys.stdout.write(USAGE)
        return 0
    word, *rest = arguments
    if word in STAGES:
        from rlhf_forge.cli import run_stage

        run_stage(word, rest)
        return 0
    if word in COMMANDS:
        return _run_command(word, rest)
    if word.startswith("-"):
        raise UserError(
            f"{word}: the first word must be a command",
            hint=f"for example: python -m rlhf_forge fit {' '.join(arguments[:2])}",
        )
    raise UserError(f"no command {word!r}", hint=nearest(word, [*STAGES, *COMMANDS]))


def _run_command(word: str, rest: list[str]) -> int:
    """Call the command's function with its command line parsed; its result is the status."""
    from importlib import import_module

    from rlhf_forge.parsing import parsed_call

    name = word.replace("-", "_")
    function = getattr(import_module(f"rlhf_forge.commands.{name}"), name)
    return parsed_call(function, rest, word) or 0


if __name__ == "__main__":
    sys.exit(main())
