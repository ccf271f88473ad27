from pathlib import Path

import pytest

from rlhf_forge.errors import UserError
from rlhf_forge.evaluation.card_making import report_card
from rlhf_forge.evaluation.report_card import CARD, read_report, write_report
from tests.evaluation.evidence import coin, evidence_of, true_pairs


def test_a_card_is_read_as_it_was_written(tmp_path: Path) -> None:
    card = report_card(evidence_of(coin, true_pairs(40)))
    write_report(card, tmp_path)
    assert read_report(tmp_path) == card


def test_an_artefact_may_have_none(tmp_path: Path) -> None:
    assert read_report(tmp_path) is None


@pytest.mark.parametrize("text", ["{", "[]", '{"verdict": "fine"}'])
def test_a_broken_card_is_refused_by_name(text: str, tmp_path: Path) -> None:
    (tmp_path / CARD).write_text(text)
    with pytest.raises(UserError, match=r"card\.json: not a report card of format 1"):
        read_report(tmp_path)
