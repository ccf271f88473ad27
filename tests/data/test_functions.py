from pathlib import Path

import pytest

from rlhf_forge.data.functions import is_function, load_function
from rlhf_forge.errors import UserError

HERE = __name__
NO_FUNCTION = 3


def lengths() -> None:
    """To be found."""


def refused(path: str) -> UserError:
    with pytest.raises(UserError) as caught:
        load_function(path)
    assert str(caught.value).startswith(f"no function {path} (")
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_function_is_found_by_its_path() -> None:
    assert load_function(f"{HERE}:lengths") is lengths


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("nowhere:score", "there is no module nowhere"),
        ("json.nowhere:score", "there is no module json.nowhere"),
        ("no.such.module:score", "there is no module no.such.module"),
        (f"{HERE}:nothing_here", f"{HERE} has no function nothing_here"),
        (f"{HERE}:NO_FUNCTION", "it is a int"),
        (f"{HERE}:", "it is not written as module:function"),
        (":score", "it is not written as module:function"),
    ],
)
def test_a_path_to_no_function_is_told_with_the_reason(path: str, reason: str) -> None:
    assert f"({reason})" in str(refused(path))


def test_a_misspelt_function_is_refused_with_the_nearest() -> None:
    assert refused(f"{HERE}:lenghts").hint == f"did you mean {HERE}:lengths?"


@pytest.mark.parametrize("fault", ["1 / 0", "raise SystemExit(3)"])
@pytest.mark.parametrize("path", ["spoilt_{}:f", "spoilt_{}.inner:f"])
def test_a_module_that_fails_while_it_is_imported_is_told_in_one_line(
    fault: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"spoilt_{abs(hash((fault, path)))}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(fault)
    (tmp_path / name / "inner.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    told = str(refused(path.format(name.removeprefix("spoilt_"))))
    assert "importing its module raised" in told


def test_a_path_has_one_colon_between_names() -> None:
    assert is_function("a.b:c")
    assert not any(map(is_function, ("a.b", "a:b:c", "C:/data.jsonl", "a/b:c")))
