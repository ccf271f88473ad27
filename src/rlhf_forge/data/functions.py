"""Python functions that a config names by path: of data, of judges, of rewards."""

import difflib
import inspect
import re
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from rlhf_forge.errors import UserError
from rlhf_forge.parsing import first_line

FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_function(path: str) -> bool:
    """Whether ``path`` has the shape of one: ``module:function``."""
    return FUNCTION.fullmatch(path) is not None


def load_function(path: str) -> Callable[..., Any]:
    """The function at ``module:function``.

    Raises:
        UserError: If there is none, with the reason and, for a misspelt name, the nearest.
    """
    if not is_function(path):
        raise UserError(f"no function {path} (it is not written as module:function)")
    name = path.partition(":")[2]
    module = _module_of(path)
    found = getattr(module, name, None)
    if callable(found):
        function: Callable[..., Any] = found
        return function
    if found is not None:
        raise UserError(f"no function {path} (it is a {type(found).__name__})")
    names = [known for known, _ in inspect.getmembers(module, inspect.isfunction)]
    near = difflib.get_close_matches(name, names, n=1)
    raise UserError(
        f"no function {path} ({module.__name__} has no function {name})",
        hint=f"did you mean {module.__name__}:{near[0]}?"
        if near
        else f"it has {', '.join(names) or 'no functions'}",
    )


def _module_of(path: str) -> ModuleType:
    name = path.partition(":")[0]
    try:
        known = find_spec(name) is not None
    except ModuleNotFoundError:  # of a package above it
        known = False
    except (Exception, SystemExit) as error:  # a package above it is imported on the way
        raise _broken(path, error) from error
    if not known:
        raise UserError(
            f"no function {path} (there is no module {name})",
            hint="write package.module:function; the module must be importable from here",
        )
    try:
        return import_module(name)
    except (Exception, SystemExit) as error:
        raise _broken(path, error) from error


def _broken(path: str, error: BaseException) -> UserError:
    return UserError(
        f"no function {path} (importing its module raised {type(error).__name__}: "
        f"{first_line(error)})"
    )
