import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict

from rlhf_forge.data.files import Row
from rlhf_forge.data.records import BrokenLine
from rlhf_forge.data.sources import read_rows, require_used
from rlhf_forge.errors import UserError

ROWS = [{"prompt": "a", "n": 1}, {"prompt": 'b\nc, "d" é', "n": 2}]


def rows_by_seed(*, seed: int, split: str) -> list[dict[str, Any]]:
    return [{"text": f"{split} {seed} {number}"} for number in range(2)]


def no_rows(*, seed: int, split: str) -> list[dict[str, Any]]:
    return []


def not_rows(*, seed: int, split: str) -> list[str]:
    return ["text"]


def read(path: Path | str) -> list[Row]:
    return list(read_rows(str(path), split="train", seed=0))


def refused(path: Path | str) -> UserError:
    with pytest.raises(UserError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return caught.value


def jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("name", ["data.jsonl", "data.jsonl.gz", "data.json"])
def test_lines_of_json_are_read_with_their_line_numbers(tmp_path: Path, name: str) -> None:
    data = ("\n" + jsonl(ROWS)).encode()
    file = tmp_path / name
    file.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert read(file) == [(f"{file}:2", ROWS[0]), (f"{file}:3", ROWS[1])]


def test_an_array_is_read_with_the_line_each_element_begins_on(tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    file.write_text('[\n  {"a": 1,\n   "b": [2]},\n  {"a": 3},{"a": 4}\n]\n')
    rows = [{"a": 1, "b": [2]}, {"a": 3}, {"a": 4}]
    assert read(file) == list(zip([f"{file}:2", f"{file}:4", f"{file}:4"], rows, strict=True))


def test_csv_is_read_with_the_line_each_record_begins_on(tmp_path: Path) -> None:
    file = tmp_path / "data.csv"
    file.write_text('prompt,n\n"a\nb, ""c""",1\n\nd,2\n')
    assert read(file) == [
        (f"{file}:2", {"prompt": 'a\nb, "c"', "n": "1"}),
        (f"{file}:5", {"prompt": "d", "n": "2"}),
    ]


def test_a_csv_cell_may_be_longer_than_the_readers_default(tmp_path: Path) -> None:
    file = tmp_path / "data.csv"
    file.write_text("text\n" + "x" * 200_000 + "\n")
    assert read(file) == [(f"{file}:2", {"text": "x" * 200_000})]


def test_parquet_is_read_with_row_numbers(tmp_path: Path) -> None:
    file = tmp_path / "data.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), file)
    assert read(file) == [(f"{file} row 1", ROWS[0]), (f"{file} row 2", ROWS[1])]


@pytest.mark.parametrize("opened", [pyarrow.ipc.new_file, pyarrow.ipc.new_stream])
def test_arrow_is_read_as_a_file_and_as_the_stream_that_datasets_caches(
    opened: Any, tmp_path: Path
) -> None:
    file = tmp_path / "data.arrow"
    table = pyarrow.Table.from_pylist(ROWS)
    with opened(str(file), table.schema) as sink:
        for batch in table.to_batches(max_chunksize=1):
            sink.write_batch(batch)
    assert read(file) == [(f"{file} row 1", ROWS[0]), (f"{file} row 2", ROWS[1])]


def test_a_broken_arrow_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "data.arrow"
    file.write_bytes(b"no arrow at all")
    assert str(refused(file)).startswith(f"{file}: not a whole Arrow file: ")


def test_rows_come_before_later_ones_are_looked_at_and_a_bad_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "data.csv"
    file.write_bytes(b"text\nx\n\xff\ny\n")
    rows = read_rows(str(file), split="train", seed=0)
    assert next(rows)[1] == {"text": "x"}
    with pytest.raises(UserError, match=r":3: not UTF-8 text$"):
        next(rows)


@pytest.mark.parametrize(
    ("path", "config"), [("owner/name", None), ("owner/name:comparisons", "comparisons")]
)
def test_a_hub_name_may_carry_its_config_and_the_split_is_asked_for(
    path: str, config: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def load_dataset(name: str, config: str | None, *, split: str) -> Dataset:
        asked.extend([name, config, split])
        return Dataset.from_list(ROWS)

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    rows = list(read_rows(path, split="train_prefs", seed=0))
    assert asked == ["owner/name", config, "train_prefs"]
    assert rows[1] == (f"{path} [train_prefs] row 2", ROWS[1])


def test_a_split_asked_of_a_file_or_of_one_table_is_refused(tmp_path: Path) -> None:
    file, table = tmp_path / "data.jsonl", tmp_path / "table"
    file.write_text("{}")
    Dataset.from_list(ROWS).save_to_disk(table)
    for path in (str(file), str(table)):
        require_used("data.split", "train", path, default="train")
        with pytest.raises(UserError, match=f"data.split: test: {path} has no splits"):
            require_used("data.split", "test", path, default="train")


def test_a_split_asked_of_what_has_splits_is_used(tmp_path: Path) -> None:
    DatasetDict({"test": Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "several")
    for path in (str(tmp_path / "several"), f"{__name__}:rows_by_seed", "owner/name"):
        require_used("data.split", "test", path, default="train")


def test_a_folder_that_datasets_saved_is_read(tmp_path: Path) -> None:
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "data")
    assert [fields for _, fields in read(tmp_path / "data")] == ROWS


def test_a_split_of_a_saved_data_set_is_read_and_a_missing_one_refused(tmp_path: Path) -> None:
    DatasetDict({"train": Dataset.from_list(ROWS)}).save_to_disk(tmp_path)
    assert read(tmp_path)[1] == (f"{tmp_path} [train] row 2", ROWS[1])
    with pytest.raises(UserError, match="no split 'test'") as caught:
        list(read_rows(str(tmp_path), split="test", seed=0))
    assert caught.value.hint == "set data.split to train"


def test_a_function_is_called_with_seed_and_split() -> None:
    path = f"{__name__}:rows_by_seed"
    rows = list(read_rows(path, split="validation", seed=7))
    assert rows[1] == (f"{path} row 2", {"text": "validation 7 1"})


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + jsonl(ROWS).encode())
    assert read(file)[0][1] == ROWS[0]


@pytest.mark.parametrize("name", ["data.jsonl", "data.json"])
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": }', "broken JSON: Expecting value at column 7"),
        (b'{"a": "b', "broken JSON: Unterminated string starting at column 7"),
        (b"[2]", "a list, where an object is wanted"),
        (b'{"a": "\xff"}', "not UTF-8 text"),
        (b"[" * 100_000, "JSON nested too deep"),
        (b'{"a": ' + b"1" * 5000 + b"}", "an integer of too many digits"),
    ],
    ids=range(6),
)
def test_a_broken_line_is_a_row_that_says_why_and_the_rows_around_it_are_read(
    tmp_path: Path, name: str, line: bytes, reason: str
) -> None:
    file = tmp_path / name
    file.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 3}\n')
    first, (origin, broken), last = list(read_rows(str(file), split="train", seed=0))
    assert (first, last) == ((f"{file}:1", {"a": 1}), (f"{file}:3", {"a": 3}))
    assert origin == f"{file}:2"
    assert isinstance(broken, BrokenLine)
    assert str(broken) == reason
    assert broken.text.encode(errors="surrogateescape").rstrip() == line


def test_an_element_of_an_array_that_is_no_object_is_a_broken_row(tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    file.write_text('[\n{"a": 1},\n"b"]')
    _, (origin, broken) = list(read_rows(str(file), split="train", seed=0))
    assert (origin, str(broken)) == (f"{file}:3", "a str, where an object is wanted")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("data.jsonl", b"\n\n", "empty"),
        ("data.json", b'[\n{"a": 1},\n{"a": }\n]', ":3: broken JSON"),
        ("data.json", b'[\n{"a": 1}\n{"a": 2}\n]', ":3: broken JSON"),
        ("data.json", b'[\n{"a": 1},\n', ":3: broken JSON"),
        ("data.json", b'[{"a": 1}]\n\n[{"a": 2}]\n', ":3: broken JSON: something behind"),
        ("data.json", b'[{"a": 1}] and more', ":1: broken JSON: something behind"),
        ("data.json", b'[{"a": 1},\n]', ":2: broken JSON"),
        ("data.json", b'[{"a": "\xff"}]', ":1: not UTF-8 text"),
        ("data.json", b'[\n{"a": "\n"}]', ":2: broken JSON: Invalid control character at column 8"),
        ("data.json", b"[" * 100_000, ":1: JSON nested too deep"),
        ("data.json", b"[\n" + b"1" * 5000 + b"]", ":2: an integer of too many digits"),
        ("data.json", b"[]", "empty"),
        ("data.json", b"", "empty"),
        ("data.csv", b"a,b\n1,2\n3\n", ":3: 1 columns, and the header has 2"),
        ("data.csv", b'a,b\n1,"2\n', ":2: broken CSV"),
        ("data.csv", b"a,a\n1,2\n", ":1: the header has a twice"),
        ("data.csv", b"a,b\n", "empty"),
        ("data.parquet", b"PAR1", "not a whole Parquet file"),
        ("data.txt", b"a", "cannot read files ending in '.txt'"),
        ("data.jsonl.gz", gzip.compress(jsonl(ROWS * 99).encode())[:-9], "broken gzip file"),
        ("data.jsonl.gz", b'{"a": 1}\n', "broken gzip file"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    error = str(refused(tmp_path / name))
    assert error.startswith(str(tmp_path / name))
    assert message in error


def test_a_missing_file_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("{}")
    error = refused(tmp_path / "pars.jsonl")
    assert "no such file" in str(error)
    assert error.hint == f"did you mean {tmp_path / 'pairs.jsonl'}?"


def test_a_relative_name_with_a_known_ending_is_a_file_and_no_hub_name() -> None:
    assert str(refused("data/pairs.jsonl.gz")).endswith("no such file: data/pairs.jsonl.gz")


def test_a_folder_with_nothing_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path).hint == "it holds no data"


def test_a_folder_of_files_is_refused_naming_them(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("{}")
    assert refused(tmp_path).hint == "give a file in it: pairs.jsonl"


def test_a_hub_name_without_a_network_is_refused_in_one_line() -> None:
    assert "nobody/nothing" in str(refused("nobody/nothing"))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no.such.module:rows", "data.path: no function no.such.module:rows"),
        (f"{__name__}:row_by_seed", f"data.path: no function {__name__}:row_by_seed"),
        (f"{__name__}:not_rows", "must return a list of dicts"),
        (f"{__name__}:no_rows", "empty"),
    ],
)
def test_a_function_that_cannot_be_used_is_refused(path: str, message: str) -> None:
    assert message in str(refused(path))


def test_a_misspelt_function_is_refused_with_the_nearest() -> None:
    error = refused(f"{__name__}:row_by_seed")
    assert error.hint == f"did you mean {__name__}:rows_by_seed?"
