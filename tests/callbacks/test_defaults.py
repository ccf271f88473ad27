"""What a run says by itself."""

import warnings

import rlhf_forge
from rlhf_forge.callbacks.defaults import in_one_line


def test_a_warning_is_one_line_and_says_where_it_is_from_if_not_from_us() -> None:
    ours = in_one_line("too long", UserWarning, rlhf_forge.__file__, 3)
    assert ours == "warning: too long\n"
    theirs = in_one_line("old name", FutureWarning, "/lib/peft/tuners.py", 12)
    assert theirs == "warning: old name (/lib/peft/tuners.py:12)\n"


def test_it_fits_where_python_puts_it() -> None:
    assert in_one_line.__code__.co_argcount == warnings.formatwarning.__code__.co_argcount
