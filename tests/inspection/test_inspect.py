"""From files to findings: what is only seen over several records."""

import json
import tracemalloc
from pathlib import Path

import pytest

from rlhf_forge.errors import UserError
from rlhf_forge.inspection.inspect import Settings, inspect
from rlhf_forge.inspection.reading import Source
from tests.inspection.made import LONG, inspected, lines, pair, row


def codes(found: object) -> set[str]:
    return {f.code for f in found.findings}  # type: ignore[attr-defined]


def test_clean_data_has_no_findings(tmp_path: Path) -> None:
    found = inspected(tmp_path, [row(n) for n in range(20)], [row(n) for n in range(30, 35)])
    assert codes(found) == set()
    assert (found.records, found.pairs, found.others) == (25, 25, {})


def test_a_duplicate_is_the_later_one_whatever_its_case_and_spacing(tmp_path: Path) -> None:
    again = {key: f" {text.upper()} " for key, text in row(1).items()}
    found = inspected(tmp_path, [row(1), row(2), again])
    assert lines(found, "PREF301") == ["train.jsonl:3 train.jsonl:1"]
    assert codes(found) == {"PREF301"}


def test_a_near_duplicate_is_none_where_the_label_is_turned(tmp_path: Path) -> None:
    first = row(1) | {"chosen": f"a {LONG}"}
    changed = first | {"chosen": f"a {LONG} b"}
    turned = first | {"chosen": first["rejected"], "rejected": first["chosen"]}
    found = inspected(tmp_path, [first, changed, turned])
    assert lines(found, "PREF302") == ["train.jsonl:2 train.jsonl:1"]
    assert lines(found, "PREF303") == ["train.jsonl:1 train.jsonl:3", "train.jsonl:3 train.jsonl:1"]


def test_a_prompt_on_both_sides_is_an_error_of_the_training_row(tmp_path: Path) -> None:
    leak = row(2) | {"chosen": "other"}
    found = inspected(tmp_path, [row(n) for n in range(4)], [row(9), leak])
    assert lines(found, "PREF304") == ["train.jsonl:3 held_out.jsonl:2"]
    assert found.count("error") == 1


def test_a_nearly_leaked_prompt_is_a_warning(tmp_path: Path) -> None:
    near = row(8) | {"prompt": f"{LONG} end"}
    found = inspected(tmp_path, [row(1) | {"prompt": LONG}], [near])
    assert lines(found, "PREF305") == ["train.jsonl:1 held_out.jsonl:1"]
    assert codes(found) == {"PREF305"}


def test_other_answers_to_a_prompt_are_worth_knowing_only(tmp_path: Path) -> None:
    again = row(2) | {"prompt": row(1)["prompt"]}
    found = inspected(tmp_path, [row(1), again])
    assert lines(found, "PREF306") == ["train.jsonl:2 train.jsonl:1"]
    assert found.count("error") == found.count("warning") == 0


def test_records_that_are_no_pairs_are_counted_with_their_line(tmp_path: Path) -> None:
    rows = [row(1), row(2) | {"rejected": None}, row(3), row(4)]
    found = inspected(tmp_path, rows)
    assert lines(found, "PREF102") == ["train.jsonl:2"]
    assert (found.pairs, found.records) == (3, 4)


def test_a_tie_is_worth_knowing_and_no_pair(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"p{n}", "response_1": f"a{n}", "response_2": f"b{n}", "preference_strength": n}
        for n in range(3)
    ]
    found = inspected(tmp_path, rows)
    assert lines(found, "PREF106") == ["train.jsonl:1"]
    assert (found.pairs, found.others) == (2, {"tie": 1})
    assert found.count("error") == 0


def test_all_pairs_of_a_ranking_are_looked_at_under_its_line(tmp_path: Path) -> None:
    answers = [{"answer": f"answer number {n}", "rank": n} for n in (1, 2, 3)]
    found = inspected(tmp_path, [{"prompt": f"p{n}", "answers": answers} for n in range(2)])
    assert (found.records, found.pairs) == (6, 6)
    assert lines(found, "PREF306")[:2] == ["train.jsonl:1 train.jsonl:1"] * 2


def test_contexts_that_differ_have_a_rule_of_their_own(tmp_path: Path) -> None:
    same = "\n\nHuman: a\n\nAssistant: "
    other = "\n\nHuman: b\n\nAssistant: "
    rows = [{"chosen": f"{same}x{n}", "rejected": f"{same}y{n}"} for n in range(3)]
    found = inspected(tmp_path, [*rows, {"chosen": f"{same}x", "rejected": f"{other}y"}])
    assert lines(found, "PREF103") == ["train.jsonl:4"]


@pytest.mark.parametrize("place", [2, 250])
def test_a_broken_line_is_a_finding_and_the_reading_goes_on(tmp_path: Path, place: int) -> None:
    texts = [json.dumps(row(n)) for n in range(place - 1)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join([*texts, "{broken", json.dumps(row(999)), "[1]"]))
    found = inspect([Source(str(path))], Settings())
    assert lines(found, "PREF101") == [f"pairs.jsonl:{place}", f"pairs.jsonl:{place + 2}"]
    assert found.pairs == place
    assert found.others == {"broken JSON": 1, "a list, where an object is wanted": 1}


@pytest.mark.parametrize("place", [2, 250])
def test_a_file_that_is_broken_for_good_says_that_its_rest_was_not_read(
    tmp_path: Path, place: int
) -> None:
    texts = [json.dumps(row(n)) for n in range(place - 1)]
    path = tmp_path / "pairs.json"
    path.write_text("[\n" + ",\n".join([*texts, "{broken", json.dumps(row(999))]) + "]")
    found = inspect([Source(str(path))], Settings())
    assert lines(found, "PREF101") == [f"pairs.json:{place + 1}"]
    assert found.pairs == place - 1
    [reason] = found.others
    assert reason.startswith("broken JSON: ")
    assert reason.endswith("; nothing behind it was read")


def test_what_cannot_be_read_at_all_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("{")
    with pytest.raises(UserError, match=r"bad.jsonl:1: broken JSON"):
        inspect([Source(str(tmp_path / "bad.jsonl"))], Settings())


def test_length_and_style_that_decide_are_told_with_their_interval(tmp_path: Path) -> None:
    rows = [row(n, chosen=f"I'm sorry, no. {row(n)['chosen']}") for n in range(40)]
    found = inspected(tmp_path, rows)
    told = {f.code: f.message for f in found.findings}
    assert told["PREF401"].startswith("longer: the chosen answer in 100.0% of the 40 pairs")
    assert told["PREF402"].startswith("refuses: the chosen answer in 100.0%")


def test_one_thing_is_said_to_decide_only_where_the_interval_says_so(tmp_path: Path) -> None:
    rows = [row(n, chosen=("x" if n % 3 else "x" * 900) + f" {n}") for n in range(60)]
    assert "PREF401" not in codes(inspected(tmp_path, rows[:20]))


@pytest.mark.parametrize(("end", "lack"), [("</s>", ""), (" So it ends.", " So it")])
def test_a_source_whose_answers_lack_their_end_is_found(
    tmp_path: Path, end: str, lack: str
) -> None:
    rows = []
    for n in range(90):
        source = "abc"[n % 3]
        tail = lack if source == "c" else end
        texts = {key: f"{row(n)[key]}{tail}" for key in ("chosen", "rejected")}
        rows.append(row(n, source=source, **texts))
    found = inspected(tmp_path, rows)
    assert lines(found, "PREF503") == [f"train.jsonl:{n + 1}" for n in range(90) if n % 3 == 2]
    assert [(r.name, r.pairs) for r in found.by_source] == [("a", 30), ("b", 30), ("c", 30)]


def test_only_selected_rules_speak(tmp_path: Path) -> None:
    rows = [row(1), row(1), row(2) | {"chosen": ""}]
    found = inspected(tmp_path, rows, settings=Settings(codes=frozenset({"PREF203"})))
    assert codes(found) == {"PREF203"}


def test_a_judge_of_ones_own_says_which_labels_are_unlikely(tmp_path: Path) -> None:
    rows = [row(n) for n in range(200)]

    def judge(pairs: object) -> list[float]:
        return [-5.0 if p.chosen[0]["content"].startswith("c70 ") else 3.0 for p in pairs]  # type: ignore[attr-defined]

    found = inspected(tmp_path, rows, settings=Settings(judge=judge, judge_name="mine"))
    assert found.labels is not None
    assert found.labels.accuracy.value == pytest.approx(1 if not lines(found, "PREF403") else 0.995)


def test_few_pairs_are_asked_no_model(tmp_path: Path) -> None:
    assert inspected(tmp_path, [row(n) for n in range(50)]).labels is None


def test_a_function_is_a_source_too() -> None:
    found = inspect(
        [
            Source(f"{__name__}:function"),
            Source(f"{__name__}:function", "validation", held_out=True),
        ],
        Settings(),
    )
    assert found.pairs == 6
    assert lines(found, "PREF304") == []


def function(*, seed: int, split: str) -> list[dict[str, str]]:
    return [row(n + 10 * (split == "validation")) for n in range(3)]


def test_examples_are_the_texts_of_the_records(tmp_path: Path) -> None:
    rows = [row(n) for n in range(8)]
    rows[5]["chosen"] = " "
    [example] = inspected(tmp_path, rows).examples["PREF203"]
    assert example.origin.endswith("train.jsonl:6")
    assert example.texts == {
        "prompt": rows[5]["prompt"],
        "chosen": " ",
        "rejected": rows[5]["rejected"],
    }


def test_memory_does_not_grow_with_the_texts(tmp_path: Path) -> None:
    rows = [row(n) for n in range(60)]
    for one in rows:
        one["prompt"] += " word" * 4000  # 1.2 MB of text in all
    tracemalloc.start()
    inspected(tmp_path, rows[:1])  # what is imported and cached stays out of the count
    before = tracemalloc.get_traced_memory()[0]
    found = inspected(tmp_path, rows, settings=Settings(codes=frozenset({"PREF301"})))
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert found.pairs == 60
    assert grown < 600_000


def test_made_pairs_have_nothing_wrong() -> None:
    assert pair().prompt
