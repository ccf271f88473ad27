"""Parsers that tell a mistake in one line, and name the nearest legal word."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser
from typing_extensions import override

from rlhf_forge.errors import UserError
from rlhf_forge.words import nearest

# What jsonargparse says of a key it does not know, in its several voices.
UNKNOWN_KEY = re.compile(
    r"(?:Key|Option|Unrecognized arguments:|unrecognized arguments:|No action for key) "
    r"[\"']?(?:--)?([\w.]+)"
)


class TerseParser(ArgumentParser):
    """jsonargparse's parser with `UserError` in place of usage, noise and exit."""

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise mistake(message, known_keys(self)) from ex


def parsed_call(function: Callable[..., Any], arguments: Sequence[str], word: str) -> int | None:
    """Call ``function`` with ``arguments`` parsed by its signature and docstring.

    Raises:
        UserError: If they do not fit.
    """
    parser = TerseParser(prog=f"python -m rlhf_forge {word}")
    parser.add_function_arguments(function, as_positional=True, fail_untyped=True)
    _take_several_words(parser)
    parsed = parser.parse_args(list(arguments))
    status: int | None = function(**parser.instantiate_classes(parsed).as_dict())
    return status


def _take_several_words(parser: ArgumentParser) -> None:
    """Let a positional of several words be typed as words: jsonargparse wants a JSON list."""
    for action in parser._actions:
        if not action.option_strings and getattr(action, "_typehint", None) == list[str]:
            action.nargs, action.metavar = "+", action.dest.upper()
            action._typehint = str  # type: ignore[attr-defined]  # jsonargparse's own


def known_keys(parser: ArgumentParser) -> list[str]:
    """All options of a parser, without the dashes."""
    options = (text for action in parser._actions for text in action.option_strings)
    return [text.lstrip("-") for text in options]


def mistake(message: str, known: Sequence[str]) -> UserError:
    """The parser's message as one line, with the nearest key as its hint."""
    text = innermost(message)
    unknown = UNKNOWN_KEY.search(message)
    if unknown is None:
        return UserError(text)
    leaf = unknown.group(1).rsplit(".", 1)[-1]
    by_leaf = {key.rsplit(".", 1)[-1]: key for key in known}
    hint = nearest(leaf, by_leaf)
    if hint is not None:
        leaf_found = hint.removeprefix("did you mean ").removesuffix("?")
        hint = f"did you mean {by_leaf[leaf_found]}?"
    return UserError(text, hint=hint)


def innermost(message: str) -> str:
    """The line of a nested message that names the fault, without the types tried around it."""
    lines = [line.strip(" -") for line in message.splitlines() if line.strip(" -")]
    noise = (
        "Expected a NoneType",
        "Given value type",
        "Does not validate against any",
        "Problem with",
    )
    useful = [line for line in lines if not line.startswith(noise)] or lines
    key = re.search(r'[Kk]ey "([\w.]+)"', message)
    text = useful[-1] if useful else message
    if key is not None and key.group(1) not in text:
        text = f"{key.group(1)}: {text}"
    return text
