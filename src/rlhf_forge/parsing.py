"""Parsers that tell a mistake in one line: the key, the value got, the rule, the nearest name."""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import is_dataclass
from importlib import import_module
from itertools import zip_longest
from typing import Any, NoReturn, get_type_hints

from jsonargparse import ArgumentParser
from typing_extensions import override

from rlhf_forge.errors import UserError

# How jsonargparse says that it does not know a key; the groups join to the key.
UNKNOWN_KEY = (
    re.compile(r"Group '([\w.]+)' does not accept option '([\w.]+)'"),
    re.compile(r"(?:Option|Key) [\"']([\w.]+)[\"'] is not (?:accepted|expected)"),
    re.compile(r"unrecognized arguments: --([\w.-]+)"),
    re.compile(r"Subcommand '\w+' does not accept option '([\w.]+)'"),
)
WANTED_KEY = re.compile(r"arguments are required: ([\w.]+)|Key \"?([\w.]+)\"? is required")
FAULTY_KEY = re.compile(r"Parser key \"([\w.]+)\"|argument (?:-\w/)?(?:--)?([\w.]+):")
NO_VALUE = re.compile(r"expected (?:one|at least one) argument")
WORD = re.compile(r"unrecognized arguments: ([^-\s]\S*)")
EXPECTED = re.compile(r"Expected an? (?:<class '([\w.]+)'>|typing\.Literal\[(.*?)\])")
GOT = re.compile(r"(?:Got value|Given value): (.*)")
# The first class that a key of several kinds takes, or takes a list of.
SUBTYPE = re.compile(r"Subtypes: \[(?:<class '|list\[)([\w.]+)['\]]")
NO_CLASS = re.compile(r"given class_path '([\w.]+)'|Expected a dot import path string: (\S+)")
KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "dict": "keys with values",
    "list": "a list",
    "NoneType": "null",
}


class ParserError(UserError):
    """What a parser objects to.

    Args:
        key: The key as the parser calls it; "" for none.
        fault: What is wrong with it.
        near: The legal name most like what was given.
    """

    def __init__(self, key: str, fault: str, near: str | None = None) -> None:
        super().__init__(
            f"{key}: {fault}" if key else fault, hint=f"did you mean {near}?" if near else None
        )
        self.key, self.fault, self.near = key, fault, near

    def under(self, place: str) -> "ParserError":
        """The same, as the parser calls it that has the class with this mistake at ``place``."""
        near = self.near and f"{place}.{self.near}"
        return ParserError(f"{place}.{self.key}", self.fault, near)


class TerseParser(ArgumentParser):
    """jsonargparse's parser with `UserError` in place of usage, noise and exit."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise mistake(message, ex, known_keys(self)) from ex


def parsed_call(function: Callable[..., Any], arguments: Sequence[str], word: str) -> int | None:
    """Call ``function`` with ``arguments`` parsed by its signature and docstring.

    Raises:
        UserError: If they do not fit.
    """
    parser = TerseParser(prog=f"python -m rlhf_forge {word}")
    parser.add_function_arguments(function, as_positional=True, fail_untyped=True)
    _take_several_words(parser)
    flags = {name for name, kind in get_type_hints(function).items() if kind is bool}
    parsed = parser.parse_args(list(_as_keys(arguments, flags)))
    status: int | None = function(**parser.instantiate(parsed).as_dict())
    return status


def _as_keys(arguments: Sequence[str], flags: Set[str]) -> Iterator[str]:
    """Options as the parser knows them: data_seed for data-seed, and a flag alone is true."""
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        if not argument.startswith("--"):
            yield argument
            continue
        key, equals, value = argument.partition("=")
        key = "--" + key[2:].replace("-", "_")
        yield f"{key}{equals}{value}"
        if key[2:] in flags and not equals and (not following or following.startswith("--")):
            yield "true"


def _take_several_words(parser: ArgumentParser) -> None:
    """Let a positional of several words be typed as words: jsonargparse wants a JSON list."""
    for action in parser._actions:
        if not action.option_strings and getattr(action, "_typehint", None) == list[str]:
            action.nargs, action.metavar = "+", action.dest.upper()
            action._typehint = str  # type: ignore[attr-defined]  # jsonargparse's own


def known_keys(parser: ArgumentParser) -> list[str]:
    """All options of a parser, without the dashes."""
    options = (text for action in parser._actions for text in action.option_strings)
    return [text[2:] for text in options if text.startswith("--")]


def mistake(message: str, ex: Exception | None, known: Sequence[str]) -> UserError:
    """What a parser's message says, in one line.

    Args:
        message: jsonargparse's.
        ex: What it was raised from. If a parser within found the fault, it stands in the chain.
        known: Keys that are legal here, and names of classes.
    """
    within = user_error_in(ex)
    faulty = _first(FAULTY_KEY, message)
    if isinstance(within, ParserError):
        init_args = "" if _is_of_plain_keys(message) else ".init_args"
        found = within.under(f"{faulty}{init_args}") if faulty else within
        return found if found.near else ParserError(found.key, found.fault, _near(found.key, known))
    if within is not None:
        return within
    return _unknown(message, known) or _of_key(message, faulty, known)


def nearest_key(key: str, known: Iterable[str]) -> str | None:
    """The known key most like ``key``: one of its own place, else one of the same last name."""
    parent, _, leaf = key.rpartition(".")
    places = [(k, *k.rpartition(".")[::2]) for k in known]
    beside = {name: k for k, place, name in places if place == parent}
    anywhere = {name: k for k, _, name in reversed(places)}
    for names, cutoff in ((beside, 0.6), (anywhere, 0.75)):
        close = difflib.get_close_matches(leaf, names, n=1, cutoff=cutoff)
        if close:
            return names[close[0]]
    return None


def innermost(error: BaseException) -> BaseException:
    """The exception that all others in the chain were raised from."""
    return list(_chain(error))[-1]


def user_error_in(error: BaseException | None) -> UserError | None:
    """The `UserError` that an exception was raised from, if there is one."""
    return next((e for e in _chain(error) if isinstance(e, UserError)), None)


def first_line(error: BaseException) -> str:
    """What an exception says, cut to its first line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _is_of_plain_keys(message: str) -> bool:
    """Whether the faulty key takes a data class or null: its keys stand right below it."""
    module, _, name = (_first(SUBTYPE, message) or "").rpartition(".")
    return bool(module) and is_dataclass(getattr(import_module(module), name, None))


def _near(key: str, known: Sequence[str]) -> str | None:
    return None if key in known else nearest_key(key, known)


def _unknown(message: str, known: Sequence[str]) -> ParserError | None:
    """The mistake, if it is a key or a word that is not known."""
    for pattern in UNKNOWN_KEY:
        match = pattern.search(message)
        if match is not None:
            key = ".".join(match.groups())
            return ParserError(key, "no such key", nearest_key(key, known))
    word = _first(WORD, message)
    if word is not None:
        is_config = word.endswith((".yaml", ".yml"))
        return ParserError(
            "", f"{word!r}: not an option", f"--config {word}" if is_config else None
        )
    return None


def _of_key(message: str, faulty: str | None, known: Sequence[str]) -> ParserError:
    """The mistake in the value of a key."""
    wanted = _first(WANTED_KEY, message)
    if wanted is not None:
        return ParserError(wanted, "needed, and not given")
    name = _first(NO_CLASS, message)
    if name is not None and _is_of_plain_keys(message):
        return ParserError(faulty or "", f"must be {KINDS['dict']} or null, got {name}")
    if name is not None:
        near = difflib.get_close_matches(name.rpartition(".")[2], known, n=1)
        return ParserError(
            f"{faulty}.class_path", f"no such class: {name}", near[0] if near else None
        )
    got = _first(GOT, message)
    if NO_VALUE.search(message):
        return ParserError(faulty or "", "needs a value behind it")
    wanted_kind = _expected(message)
    if wanted_kind is None or got is None:
        return ParserError(faulty or "", _last_line(message))
    return ParserError(faulty or "", f"must be {wanted_kind}, got {got}")


def _expected(message: str) -> str | None:
    """What a value must be, in words."""
    kinds = []
    for kind, literal in EXPECTED.findall(message):
        choices = re.findall(r"'(\w+)'", literal)
        kinds.append(f"one of {', '.join(choices)}" if choices else KINDS.get(kind, kind))
    return " or ".join(dict.fromkeys(kinds)) or None


def _last_line(message: str) -> str:
    lines = [line.strip(" -") for line in message.splitlines() if line.strip(" -")]
    told = [line for line in lines if not line.startswith(("Given value", "Parser key"))]
    text = (told or lines or [message])[-1]
    return re.sub(r"^argument [^:]*: ", "", text)


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    match = pattern.search(text)
    return None if match is None else next((group for group in match.groups() if group), None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
