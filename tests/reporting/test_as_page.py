import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlhf_forge.pages.escaping import number
from rlhf_forge.pages.page import MOST_BYTES
from rlhf_forge.reporting.as_page import as_page
from rlhf_forge.reporting.report import Report, report_of
from rlhf_forge.reporting.run import read_run
from tests.pages.reading import HOSTILE, Reader
from tests.reporting.written import responses, write_events, write_lines, write_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "mine")


def report(folder: Path) -> Report:
    return report_of(read_run(str(folder)))


def leaves(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from leaves(part)
    elif isinstance(value, int | float):
        yield value


def test_nothing_that_data_models_or_configs_say_becomes_markup(tmp_path: Path) -> None:
    html = as_page(report(write_run(tmp_path / "mine", text=HOSTILE)))
    read = Reader(html)
    assert not read.tags & {"script", "img"}
    assert not [name for name in read.attributes if name.startswith("on")]
    assert "\u202e" not in html
    assert "<script>alert(1)</script>⟨U+202E⟩" in read.text
    assert "{{ 7 }}" in read.text


def test_every_number_in_a_table_is_in_the_json(folder: Path) -> None:
    found = report(folder)
    known = list(leaves(json.loads(found.as_json())))
    written = {number(value) for value in known} | {number(round(float(v), 4)) for v in known}
    shown = Reader(as_page(found)).numbers
    assert len(shown) > 50
    assert set(shown) <= written


def test_the_json_has_null_where_a_number_is_not_finite(folder: Path) -> None:
    write_events(folder / "ppo", {"objective/kl": [math.nan, math.inf]}, first_step=3)
    text = report(folder).as_json()
    assert "NaN" not in text
    assert "Infinity" not in text
    [ppo] = [stage for stage in json.loads(text)["stages"] if stage["name"] == "ppo"]
    assert ppo["logged"]["curves"]["objective/kl"]["values"][3:5] == [None, None]


def test_a_whole_run_has_all_sections_and_nothing_is_missing(folder: Path) -> None:
    read = Reader(as_page(report(folder)))
    assert read.headings == [
        "First look at these three",
        "What was done",
        "Before and after",
        "Curves",
        "Score against KL",
        "Lengths and scores",
        "Samples",
        "The reward model",
        "Resources",
        "Do it again",
    ]
    for told in (
        "ppo: objective/score",
        "The score is what mine:score makes of the responses.",
        "ringed is the one that was kept, iteration 14",
        "ppo: score 2.603, 10 tokens, cut",
        "report card of reward",
        "peak memory of the process, MiB",
        "python -m rlhf_forge pipeline configs/quickstart --run mine-again --seed 0 --data_seed 1",
        "2.13.0",
    ):
        assert told in read.text


@pytest.mark.parametrize("gone", [("ppo",), ("reward", "ppo"), ("sft", "reward")])
def test_a_run_with_stages_missing_gives_a_page_that_says_so(
    gone: tuple[str, ...], folder: Path
) -> None:
    for name in gone:
        shutil.rmtree(folder / name)
    for name in ("summary.json", "responses.jsonl"):
        (folder / name).unlink()
    read = Reader(as_page(report(folder)))
    assert "What is missing" in read.headings
    assert "it is not in this run" in read.text
    assert "No evaluation is there" in read.text
    assert "Single responses are not there" in read.text
    assert "Peak memory is not known" in read.text


def test_a_run_of_which_nothing_but_a_config_is_there_gives_a_page(tmp_path: Path) -> None:
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "config.yaml").write_text("run: x\n")
    read = Reader(as_page(report(tmp_path)))
    assert "sft has no artefact; nothing was logged" in read.text
    assert "sft has no curves." in read.text


def test_without_a_pipeline_each_stage_has_its_command(folder: Path) -> None:
    (folder / "summary.json").unlink()
    assert report(folder).commands == [
        f"python -m rlhf_forge fit --config {folder}/{name}/config.yaml --run mine-again"
        for name in ("sft", "reward", "ppo")
    ]


def test_many_stages_with_many_curves_and_long_hostile_texts_stay_below_two_megabytes(
    folder: Path,
) -> None:
    tags = {f"policy/{at}": [math.sin(step) for step in range(200)] for at in range(24)}
    write_events(folder / "ppo", tags)
    write_lines(folder / "responses.jsonl", responses(HOSTILE * 200))
    found = report(folder)
    more = [replace(found.stages[-1], name=f"ppo-{name}") for name in range(9)]
    html = as_page(replace(found, stages=[*found.stages, *more]))
    assert len(html.encode()) <= MOST_BYTES
    assert html.count("<svg") > 150
    told = "The curves of ppo-5, ppo-6, ppo-7, ppo-8 are only in the report's JSON."
    assert told in Reader(html).text
