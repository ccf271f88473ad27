"""``chat``: talk to a trained policy, also from stdin."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from rlhf_forge.errors import UserError

if TYPE_CHECKING:
    from rlhf_forge.data.records import Conversation
    from rlhf_forge.serve.speaker import Speaker


def chat(
    artefact: str,
    temperature: float = 0.7,
    max_new_tokens: int = 256,
    seed: int | None = None,
) -> int:
    """Talk to a policy; with a file or a pipe as input, answer each of its lines by itself.

    Args:
        artefact: Folder of an artefact or a run; of a run its last policy answers.
        temperature: Divides the logits; 0 takes the likeliest token.
        max_new_tokens: Longest answer, in tokens.
        seed: The same seed gives the same answers; none gives other answers each time.
    """
    from rlhf_forge.generation.sampler import Sampling
    from rlhf_forge.serve.speaker import open_speaker

    if seed is not None and seed < 0:
        raise UserError(f"--seed {seed}: must be 0 or more")
    try:
        sampling = Sampling(temperature=temperature, max_new_tokens=max_new_tokens)
    except ValueError as error:
        raise UserError(f"--{error}") from None
    speaker = open_speaker(artefact, sampling, seed=seed)
    if sys.stdin.isatty():
        _talk(speaker, sys.stdin, sys.stdout)
        sys.stderr.write(f"serve it: python -m rlhf_forge serve {artefact}\n")
    else:
        _answer_lines(speaker, sys.stdin, sys.stdout)
    return 0


def _answer_lines(speaker: "Speaker", lines: TextIO, out: TextIO) -> None:
    """One line out for each line in: line breaks within an answer are written as in JSON."""
    from rlhf_forge.data.records import BadRecord, user

    count = empty = 0
    for count, line in enumerate(lines, start=1):
        prompt = line.rstrip("\n")
        if not prompt.strip():
            empty += 1
            out.write("\n")
            continue
        try:
            text = "".join(speaker.answer(user(prompt)))
        except (BadRecord, UserError) as error:
            raise UserError(f"line {count}: {error}") from None
        out.write(text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r") + "\n")
        out.flush()
    skipped = f", {empty} empty" if empty else ""
    sys.stderr.write(f"{count} line{'s' * (count != 1)}{skipped}, answered by {speaker.role}\n")


def _talk(speaker: "Speaker", lines: TextIO, out: TextIO) -> None:
    """A conversation in the terminal."""
    from rlhf_forge.data.records import BadRecord, assistant, user

    sys.stderr.write(f"{speaker.role}; /reset forgets the conversation, /quit ends it\n")
    conversation: Conversation = []
    while line := _asked(lines):
        command = line.strip()
        if command == "/quit":
            return
        if command == "/reset":
            conversation = []
        elif command.startswith("/"):
            sys.stderr.write(f"no command {command}; there are /reset and /quit\n")
        elif command:
            asked = conversation + user(command)
            try:
                conversation = asked + assistant(_said(speaker.answer(asked), out))
            except (BadRecord, UserError) as error:
                sys.stderr.write(f"error: {error}; /reset forgets the conversation\n")


def _asked(lines: TextIO) -> str:
    """The next line, empty at the end of the input."""
    sys.stderr.write("> ")
    sys.stderr.flush()
    return lines.readline()


def _said(pieces: Iterator[str], out: TextIO) -> str:
    """The whole answer, each piece of it shown when it comes; Ctrl-C cuts it off."""
    said = ""
    try:
        for piece in pieces:
            said += piece
            out.write(piece)
            out.flush()
    except KeyboardInterrupt:
        sys.stderr.write(" (cut off)")
    out.write("\n")
    return said
