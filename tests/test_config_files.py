from pathlib import Path

import pytest

from rlhf_forge.config_files import read_config
from rlhf_forge.errors import UserError


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "where", "key"),
    [
        ("run: a\ndata: {path: x}\nrun: b\n", "3:1", "run stands there twice, first in line 1"),
        ("data:\n  path: x\n  seed: 1\n  path: y\n", "4:3", "path stands there twice, first in"),
        ("data: {path: x, path: x}\n", "1:17", "path stands there twice, first in line 1"),
        ("a: [{b: 1, c: {d: 1, 'd': 2}}]\n", "1:22", "d stands there twice, first in line 1"),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_both_lines(
    tmp_path: Path, text: str, where: str, key: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UserError) as caught:
        read_config(path)
    assert str(caught.value).startswith(f"{path}:{where}: {key}")
    assert "\n" not in str(caught.value)


def test_a_key_may_stand_in_two_places_and_beside_what_a_merge_brings(tmp_path: Path) -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {x: 3}\nc: {<<: *a, x: 4}\nd: {<<: [*a, *b], z: 5}\n"
    config = read_config(written(tmp_path, text))
    assert config["c"] == {"x": 4, "y": 2}
    assert config["d"] == {"x": 1, "y": 2, "z": 5}


def test_a_config_makes_plain_values_only(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not YAML"):
        read_config(written(tmp_path, "a: !!python/object/apply:os.getcwd []\n"))
