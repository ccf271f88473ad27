"""``python -m rlhf_forge``: Lightning's words go to the trainer, every other to a command."""

import errno
import gc
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rlhf_forge.errors import UserError
from rlhf_forge.words import COMMANDS, DRY_RUN, PLAN, STAGES, USAGE, form_of, nearest

# What a shell says of a program that SIGPIPE ends.
BROKEN_PIPE = 141
# A full disk, no permission, a read-only disk, a used-up quota: nothing for a traceback.
FAULTS_OF_THE_DISK = {errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit status.

    0 is success, 1 a finding (a check that failed), 2 a mistake of the person who typed, 130
    Ctrl-C, 141 a reader who has left. A mistake is told in one line, at most with one hint, and
    without a traceback.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # transformers and the hub ask once, when they are imported: nobody can act on their bars.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        status = _dispatch(arguments)
        sys.stdout.flush()
    except UserError as error:
        return _told(error)
    except BrokenPipeError:
        # Who reads has seen enough, as `head` does; the interpreter would flush into it once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        if error.errno not in FAULTS_OF_THE_DISK:
            raise
        where = os.fsdecode(error.filename) if error.filename else "this disk"
        return _told(UserError(f"{where}: cannot be read or written: {error.strerror}"))
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return 130
    except SystemExit as end:
        # --help, --print_config
        return end.code if isinstance(end.code, int) else 0
    return status


def _told(error: UserError) -> int:
    sys.stderr.write(f"error: {_who()}{error}\n")
    if error.hint is not None:
        sys.stderr.write(f"hint: {error.hint}\n")
    return 2


def _who() -> str:
    """Which of several processes speaks; the first, and one alone, need not say."""
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
    number = next((os.environ[name] for name in names if name in os.environ), "0")
    return "" if number == "0" else f"process {number}: "


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        sys.stdout.write(USAGE)
        return 0
    word, *rest = arguments
    if word in STAGES:
        return _run_stage(word, rest)
    if word == PLAN:
        from rlhf_forge.commands.plan import plan

        return plan(rest)
    if word in COMMANDS:
        return _run_command(word, rest)
    if word.startswith("-"):
        raise _no_command_first(arguments)
    raise UserError(f"no command {word!r}", hint=nearest(word, [*STAGES, *COMMANDS]))


def _no_command_first(arguments: list[str]) -> UserError:
    """The same words in the order that is understood."""
    command = next((word for word in arguments if word in STAGES | COMMANDS), "fit")
    rest = shlex.join(word for word in arguments if word != command)
    return UserError(
        f"{arguments[0]}: the first word must be a command",
        hint=f"python -m rlhf_forge {command} {rest}",
    )


def _run_stage(word: str, rest: list[str]) -> int:
    if word == "fit" and DRY_RUN in rest:
        with _no_collection():
            from rlhf_forge.commands.dry_run import dry_run

        return dry_run([argument for argument in rest if argument != DRY_RUN])
    with _no_collection():
        from rlhf_forge.cli import run_stage

    cli = run_stage(word, rest)
    if word == "fit":
        cli.say_next()
    return 0


@contextmanager
def _no_collection() -> Iterator[None]:
    """Look for no garbage: importing Lightning makes none, and the search took a fifth of it."""
    is_first, was_on = "lightning" not in sys.modules, gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_first:
            gc.freeze()  # nor is there any among the modules later on
        if was_on:
            gc.enable()


def _run_command(word: str, rest: list[str]) -> int:
    """Call the command's function with its command line parsed; its result is the status."""
    from importlib import import_module

    from rlhf_forge.parsing import parsed_call

    name, rest = form_of(word, rest)
    function = getattr(import_module(f"rlhf_forge.commands.{name}"), name)
    return parsed_call(function, rest, word) or 0


if __name__ == "__main__":
    sys.exit(main())
