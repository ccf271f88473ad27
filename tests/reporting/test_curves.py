import math
from pathlib import Path

from rlhf_forge.reporting.curves import MOST_POINTS, read_curves
from tests.reporting.written import write_events


def test_what_was_logged_is_read_by_tag_and_step(tmp_path: Path) -> None:
    write_events(tmp_path, {"a/b": [1.0, 2.5], "epoch": [0.0], "c/d": [7.0]}, first_step=3)
    found = read_curves(tmp_path)
    assert found is not None
    assert list(found.curves) == ["a/b", "c/d"]
    assert found.curves["a/b"].by_step() == {3: 1.0, 4: 2.5}
    assert found.seconds == 1.0


def test_a_step_that_was_done_again_has_the_later_value(tmp_path: Path) -> None:
    write_events(tmp_path, {"a/b": [1.0, 2.0, 3.0]})
    first = next(tmp_path.iterdir())
    first.rename(tmp_path / "events.out.tfevents.1.host.1.0")
    write_events(tmp_path, {"a/b": [20.0, 30.0, 40.0]}, first_step=1)
    next(p for p in tmp_path.iterdir() if p.name != "events.out.tfevents.1.host.1.0").rename(
        tmp_path / "events.out.tfevents.2.host.1.0"
    )
    found = read_curves(tmp_path)
    assert found is not None
    assert found.curves["a/b"].by_step() == {0: 1.0, 1: 20.0, 2: 30.0, 3: 40.0}


def test_a_value_that_is_no_number_is_a_gap_and_not_in_the_total(tmp_path: Path) -> None:
    write_events(tmp_path, {"a/b": [1.0, math.nan, math.inf, 2.0]})
    found = read_curves(tmp_path)
    assert found is not None
    assert found.curves["a/b"].values == [1.0, None, None, 2.0]
    assert found.curves["a/b"].total == 3.0


def test_a_long_curve_keeps_its_end_and_the_total_of_all(tmp_path: Path) -> None:
    write_events(tmp_path, {"a/b": [1.0] * 1001})
    found = read_curves(tmp_path)
    assert found is not None
    curve = found.curves["a/b"]
    assert len(curve.steps) <= MOST_POINTS + 1
    assert (curve.steps[0], curve.steps[-1], curve.total) == (0, 1000, 1001.0)


def test_a_file_that_a_kill_cut_is_read_to_where_it_is_whole(tmp_path: Path) -> None:
    write_events(tmp_path, {"a/b": [1.0, 2.0, 3.0]})
    [path] = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-7])
    found = read_curves(tmp_path)
    assert found is not None
    assert found.curves["a/b"].values == [1.0, 2.0]


def test_without_events_there_are_no_curves(tmp_path: Path) -> None:
    assert read_curves(tmp_path) is None
