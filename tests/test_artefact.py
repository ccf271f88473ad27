import json
from dataclasses import replace
from pathlib import Path

import pytest

from rlhf_forge.artefact import (
    MANIFEST,
    Expected,
    Golden,
    Manifest,
    check_fits,
    check_golden,
    read_manifest,
    reference_of,
    require_stage,
    write_manifest,
)
from rlhf_forge.errors import UserError

EXPECTED = Expected(base_fingerprint="b" * 64, tokenizer_hash="t" * 64, template_hash="c" * 64)
VALUES = [-1.0, 0.0, 1.0, 2.0]  # standard deviation 1.29
WRITTEN = Manifest(
    stage="reward",
    base="mistralai/Mistral-7B-v0.3",
    base_fingerprint=EXPECTED.base_fingerprint,
    precision="nf4",
    device="cpu",
    tokenizer_hash=EXPECTED.tokenizer_hash,
    template_hash=EXPECTED.template_hash,
    chat_template="{{ 'ä' }}\n",
    fingerprint="f" * 64,
    parents={"sft": "s" * 64},
    reward_mean=0.1,
    reward_std=1e-7,
    golden=[Golden(tokens=[1, 2, 3], targets=[0, 1, 1], value=value) for value in VALUES],
    metrics={"reward/accuracy": 0.75},
)


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_manifest(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def rewrite(folder: Path, **changes: object) -> None:
    write_manifest(WRITTEN, folder)
    fields = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(fields | changes))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_manifest(WRITTEN, tmp_path)
    assert read_manifest(tmp_path) == WRITTEN


def test_a_folder_without_a_manifest_is_no_artefact(tmp_path: Path) -> None:
    assert "no artefact here" in refusal(tmp_path)
    assert "no artefact here" in refusal(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{}", b"[]", b"null", b"3"])
def test_a_broken_manifest_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    assert "broken, or not written by rlhf_forge" in refusal(tmp_path)


@pytest.mark.parametrize("version", [2, 0, None, "1"])
def test_another_format_is_refused_naming_both(tmp_path: Path, version: object) -> None:
    rewrite(tmp_path, format=version)
    assert f"format {version}, this rlhf_forge reads format 1" in refusal(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"golden": [{"text": "a"}]},
        {"golden": 3},
        {"golden": [{"tokens": "a", "targets": [1], "value": 0.0}]},
        {"golden": [{"tokens": [1], "targets": [1], "value": None}]},
        {"surprise": 1},
        {"base_fingerprint": None},
        {"template_hash": 3},
        {"metrics": {"val/loss": "low"}},
    ],
)
def test_fields_that_are_not_the_formats_are_refused(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    rewrite(tmp_path, **changes)
    assert "not a manifest of format 1" in refusal(tmp_path)


@pytest.mark.parametrize("missing", ["golden", "stage", "base_fingerprint"])
def test_a_missing_field_is_refused(tmp_path: Path, missing: str) -> None:
    rewrite(tmp_path)
    fields = json.loads((tmp_path / MANIFEST).read_text())
    del fields[missing]
    (tmp_path / MANIFEST).write_text(json.dumps(fields))
    assert missing in refusal(tmp_path)


# -- fitting -----------------------------------------------------------------------------------


def test_an_artefact_of_this_base_tokenizer_and_template_fits(tmp_path: Path) -> None:
    check_fits(WRITTEN, EXPECTED, tmp_path)


@pytest.mark.parametrize(
    ("field", "named"),
    [
        ("base_fingerprint", "another base"),
        ("tokenizer_hash", "another tokenizer"),
        ("template_hash", "another chat template"),
    ],
)
def test_what_was_made_with_another_is_refused_by_name(
    tmp_path: Path, field: str, named: str
) -> None:
    other: dict[str, str] = {field: "x" * 64}
    with pytest.raises(UserError, match=f"{named} than this run's") as caught:
        check_fits(replace(WRITTEN, **other), EXPECTED, tmp_path)  # type: ignore[arg-type] # a str
    assert str(tmp_path) in str(caught.value)
    assert caught.value.hint is not None


def test_an_artefact_of_another_stage_is_refused_naming_both(tmp_path: Path) -> None:
    require_stage(WRITTEN, tmp_path, "sft", "reward")
    with pytest.raises(UserError) as caught:
        require_stage(WRITTEN, tmp_path, "sft", "ppo")
    assert str(caught.value) == f"{tmp_path}: a reward artefact, where one of sft or ppo is wanted"


# -- where it comes from -----------------------------------------------------------------------


def written_run(folder: Path, *, sft: str = "s" * 64) -> Path:
    """A reward artefact that was trained from "sss...", and an SFT artefact beside it."""
    artefact = folder / "reward" / "artefact"
    for place, manifest in (
        (artefact, WRITTEN),
        (folder / "sft" / "artefact", replace(WRITTEN, stage="sft", fingerprint=sft, parents={})),
    ):
        place.mkdir(parents=True)
        write_manifest(manifest, place)
    return artefact


def test_the_sft_artefact_of_a_reward_model_is_found_beside_it_by_its_fingerprint(
    tmp_path: Path,
) -> None:
    assert reference_of(written_run(tmp_path)) == tmp_path / "sft" / "artefact"


def test_it_is_found_from_within_the_artefact_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(written_run(tmp_path))
    assert reference_of(Path()) == tmp_path / "sft" / "artefact"


def test_it_is_found_under_another_name_and_beside_a_broken_artefact(tmp_path: Path) -> None:
    artefact = written_run(tmp_path)
    (tmp_path / "sft").rename(tmp_path / "my-sft")
    (tmp_path / "broken" / "artefact").mkdir(parents=True)
    (tmp_path / "broken" / "artefact" / MANIFEST).write_text("{")
    assert reference_of(artefact) == tmp_path / "my-sft" / "artefact"


def test_it_is_found_where_a_later_run_has_set_it_aside(tmp_path: Path) -> None:
    artefact = written_run(tmp_path)
    (tmp_path / "sft").rename(tmp_path / "sft.1")
    written_run(tmp_path / "later", sft="another")
    (tmp_path / "later" / "sft").rename(tmp_path / "sft")
    assert reference_of(artefact) == tmp_path / "sft.1" / "artefact"


def test_it_is_found_among_the_artefacts_at_hand(tmp_path: Path) -> None:
    artefact = written_run(tmp_path / "x", sft="another")
    elsewhere = written_run(tmp_path / "y").parent.parent / "sft" / "artefact"
    assert reference_of(artefact, near=[artefact, elsewhere]) == elsewhere


def test_without_it_the_reward_model_is_refused(tmp_path: Path) -> None:
    artefact = written_run(tmp_path, sft="another")
    with pytest.raises(UserError, match="the SFT artefact it was trained from") as caught:
        reference_of(artefact)
    assert str(artefact) in str(caught.value)
    assert caught.value.hint is not None


def test_a_reward_model_that_was_trained_from_the_bare_base_has_none(tmp_path: Path) -> None:
    write_manifest(replace(WRITTEN, parents={}), tmp_path)
    assert reference_of(tmp_path) is None


# -- golden values -----------------------------------------------------------------------------


def check(values: list[float], *, precision: str = "nf4", device: str = "cpu") -> str | None:
    return check_golden(WRITTEN, values, precision=precision, device=device, where=Path("here"))


def shifted(gap: float) -> list[float]:
    return [VALUES[0] + gap, *VALUES[1:]]


def test_equal_set_ups_must_agree_to_1e_4() -> None:
    assert check(VALUES) is None
    assert check(shifted(0.9e-4)) is None
    with pytest.raises(UserError, match="off on an equal set-up") as caught:
        check(shifted(1.1e-4))
    assert caught.value.hint is not None


@pytest.mark.parametrize("other", [{"precision": "bf16"}, {"device": "cuda"}])
def test_other_set_ups_warn_above_a_tenth_and_refuse_above_half_a_std(
    other: dict[str, str],
) -> None:
    std = 1.2910
    assert check(shifted(0.09 * std), **other) is None
    warning = check(shifted(-0.3 * std), **other)
    assert warning is not None
    assert "differ by 0.30 std" in warning
    with pytest.raises(UserError, match=r"0\.60 std off") as caught:
        check(shifted(0.6 * std), **other)
    assert all(value in str(caught.value) for value in ("nf4 on cpu then", *other.values()))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("place", [0, 3])
def test_a_golden_value_of_nan_is_refused_on_any_set_up(place: int, device: str) -> None:
    values = list(VALUES)
    values[place] = float("nan")
    with pytest.raises(UserError, match="golden values come out nan"):
        check(values, device=device)


def test_an_artefact_without_golden_values_has_nothing_to_compare() -> None:
    bare = replace(WRITTEN, golden=[])
    for device in ("cpu", "cuda"):
        assert check_golden(bare, [], precision="nf4", device=device, where=Path("here")) is None
