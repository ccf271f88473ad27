"""The file of votes: append-only, versioned, shared, and never silently another program's."""

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest

from rlhf_forge.errors import UserError
from rlhf_forge.serve.feedback.store import MIGRATIONS, FeedbackStore, Refused, Score
from tests.serve.feedback.casts import cast, comparison, thumb, undo

HOSTILE = "<script>alert(1)</script>\u202e'; DROP TABLE votes; --\x00é🦊"


@pytest.fixture
def store(tmp_path: Path) -> FeedbackStore:
    return FeedbackStore(tmp_path / "feedback.sqlite")


@pytest.fixture
def db(store: FeedbackStore) -> Iterator[sqlite3.Connection]:
    store.add(cast(comparison()))
    with closing(sqlite3.connect(store.path)) as connection:
        yield connection


def test_a_vote_comes_back_as_it_was_stored(store: FeedbackStore) -> None:
    body = comparison(tags=["x"], comment=HOSTILE, strength=3, annotator="Zoë")
    body["a"] |= {"text": HOSTILE, "seed": -(2**63), "sampling": {"temperature": 0.7}}
    votes = [cast(body), cast(thumb(0)), cast(undo(0, of=0, annotator="Zoë"))]
    for vote in votes:
        assert store.add(vote) == (vote, True)
    assert store.votes() == votes


def test_a_vote_sent_again_is_not_stored_again(store: FeedbackStore) -> None:
    first = cast(comparison())
    store.add(first)
    again = replace(first, created_at="later", flags=("too_fast",))
    assert store.add(again) == (first, False)
    assert store.votes() == [first]


def test_an_id_cannot_be_used_for_another_vote(store: FeedbackStore) -> None:
    store.add(cast(comparison(choice="a")))
    with pytest.raises(Refused, match="another vote") as caught:
        store.add(cast(comparison(choice="b")))
    assert caught.value.code == "conflict"


def test_no_row_can_be_changed_or_removed(db: sqlite3.Connection) -> None:
    for statement in ("UPDATE votes SET choice = 'b'", "DELETE FROM votes"):
        with pytest.raises(sqlite3.IntegrityError, match="undo is a row"):
            db.execute(statement)


def test_the_file_is_strict_in_wal_mode_and_has_its_version(db: sqlite3.Connection) -> None:
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    with pytest.raises(sqlite3.IntegrityError, match="cannot store TEXT value in REAL"):
        db.execute(
            "INSERT INTO votes SELECT 9, 'x', created_at, session, annotator, kind, source, pair, "
            "blind, messages, a, b, shown_left, choice, strength, tags, comment, 'soon', flags, "
            "undoes FROM votes"
        )


@pytest.mark.parametrize(
    ("of", "fields", "code"),
    [
        (7, {}, "unknown_vote"),
        (0, {"annotator": "Bob"}, "conflict"),
        (0, {"undoes": "undo-1"}, "conflict"),
    ],
)
def test_only_a_vote_of_ones_own_is_undone(
    store: FeedbackStore, of: int, fields: dict[str, str], code: str
) -> None:
    store.add(cast(comparison(0)))
    store.add(cast(comparison(1)))
    store.add(cast(undo(1, of=1)))
    with pytest.raises(Refused) as caught:
        store.add(cast(undo(0, of=of, **fields)))
    assert caught.value.code == code


def test_a_vote_is_undone_once(store: FeedbackStore) -> None:
    store.add(cast(comparison()))
    store.add(cast(undo(0, of=0)))
    assert store.add(cast(undo(0, of=0)))[1] is False  # the same undo, sent again
    with pytest.raises(Refused, match="undone already"):
        store.add(cast(undo(1, of=0)))


def test_scores_belong_to_a_comparison_and_the_first_ones_stay(store: FeedbackStore) -> None:
    store.add(cast(comparison()))
    for a in (1.0, 2.0):
        store.add_score(Score("vote-0", "reward", a, 0.0))
    assert store.scores() == [Score("vote-0", "reward", 1.0, 0.0)]
    with pytest.raises(Refused, match="no comparison"):
        store.add_score(Score("vote-1", "reward", 1.0, 0.0))


def test_many_threads_lose_nothing_and_make_the_file_once(store: FeedbackStore) -> None:
    votes = [cast(comparison(number)) for number in range(60)]
    with ThreadPoolExecutor(8) as pool:
        assert all(is_new for _, is_new in pool.map(store.add, votes))
    assert {vote.id for vote in store.votes()} == {vote.id for vote in votes}


def test_a_file_that_others_are_making_is_taken_for_no_other_program_s(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for number in range(15):
            start = Barrier(8)
            votes = FeedbackStore(tmp_path / f"{number}.sqlite")
            casts = [cast(comparison(number)) for number in range(8)]
            list(pool.map(lambda vote, at=start, to=votes: (at.wait(), to.add(vote)), casts))
            assert len(votes.votes()) == 8


def test_no_file_is_made_by_looking(store: FeedbackStore) -> None:
    assert store.votes() == []
    assert store.scores() == []
    assert not store.path.exists()


def test_a_file_that_is_none_of_ours_is_refused_and_left_alone(tmp_path: Path) -> None:
    text, other = tmp_path / "text", tmp_path / "other"
    text.write_text("no database at all, and longer than a header of a hundred bytes " * 4)
    with closing(sqlite3.connect(other)) as db:
        db.execute("CREATE TABLE votes (mine TEXT)")
    for path in (text, other):
        before = path.read_bytes()
        with pytest.raises(UserError, match=r"not a file of votes|of another program"):
            FeedbackStore(path).add(cast(comparison()))
        assert path.read_bytes() == before


def test_a_file_of_a_later_version_is_refused(db: sqlite3.Connection, store: FeedbackStore) -> None:
    db.execute("PRAGMA user_version = 99")
    with pytest.raises(UserError, match="version 99"):
        store.votes()


def test_a_folder_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be opened"):
        FeedbackStore(tmp_path / "no" / "f.sqlite").add(cast(comparison()))
