"""The run that these tests write is one that stages may leave."""

from pathlib import Path

from rlhf_forge.evaluation import report_card
from rlhf_forge.reporting.stage import CARD, CARD_FORMAT
from tests.reporting.written import write_run


def test_its_card_is_a_report_card(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine")
    card = report_card.read_report(run / "reward" / "artefact")
    assert card is not None
    assert [check.name for check in card.of("doubtful")] == ["shorter_chosen", "calibration"]
    assert (CARD, CARD_FORMAT) == (report_card.CARD, report_card.FORMAT)
