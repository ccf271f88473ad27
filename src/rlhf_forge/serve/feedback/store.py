"""The votes in one SQLite file: written once, durable before they are acknowledged."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rlhf_forge.errors import UserError
from rlhf_forge.serve.feedback.votes import Side, Vote

# "RLHF" in ASCII: tells our files from other programs' databases.
APPLICATION_ID = 0x524C4846
# Script k leads from version k to version k + 1 of the schema (PRAGMA user_version).
MIGRATIONS = (
    """
    CREATE TABLE votes (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        created_at TEXT NOT NULL,
        session TEXT NOT NULL,
        annotator TEXT NOT NULL,
        kind TEXT NOT NULL CHECK (kind IN ('comparison', 'thumb', 'undo')),
        source TEXT NOT NULL,
        pair TEXT NOT NULL CHECK ((pair != '') = (kind = 'comparison')),
        blind INTEGER CHECK (blind IN (0, 1)),
        messages TEXT CHECK (messages IS NULL OR json_valid(messages)),
        a TEXT CHECK (a IS NULL OR json_valid(a)),
        b TEXT CHECK (b IS NULL OR json_valid(b)),
        shown_left TEXT CHECK (shown_left IN ('a', 'b')),
        choice TEXT CHECK (CASE kind
            WHEN 'comparison' THEN choice IN ('a', 'b', 'tie', 'both_bad', 'skip')
            WHEN 'thumb' THEN choice IN ('up', 'down')
            ELSE choice IS NULL END),
        strength INTEGER CHECK (strength BETWEEN 1 AND 3),
        tags TEXT NOT NULL CHECK (json_valid(tags)),
        comment TEXT NOT NULL,
        seconds_to_vote REAL,
        flags TEXT NOT NULL CHECK (json_valid(flags)),
        undoes TEXT UNIQUE REFERENCES votes (id) CHECK ((undoes IS NULL) = (kind != 'undo'))
    ) STRICT;
    CREATE TABLE scores (
        vote TEXT NOT NULL REFERENCES votes (id),
        model TEXT NOT NULL,
        a REAL NOT NULL,
        b REAL NOT NULL,
        PRIMARY KEY (vote, model)
    ) STRICT, WITHOUT ROWID;
    CREATE TRIGGER votes_stay_as_they_are BEFORE UPDATE ON votes
        BEGIN SELECT RAISE(ABORT, 'votes are never changed: undo is a row'); END;
    CREATE TRIGGER votes_stay BEFORE DELETE ON votes
        BEGIN SELECT RAISE(ABORT, 'votes are never removed: undo is a row'); END;
    """,
)
COLUMNS = tuple(field.name for field in fields(Vote))
INSERT = f"INSERT INTO votes ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
SELECT = f"SELECT {', '.join(COLUMNS)} FROM votes"
# In one statement, which sees one state of the file: another process may be making it.
STATE = """
    SELECT user_version, application_id, (SELECT count(*) FROM sqlite_master)
    FROM pragma_user_version, pragma_application_id
"""
IN_JSON = {"messages", "tags", "flags"}
# Added by the server; a vote sent again has them anew.
NOT_CAST = {"created_at": "", "flags": ()}


class Refused(Exception):  # noqa: N818 - what happened, not that it is an error
    """A vote that contradicts what is stored.

    Args:
        message: One line.
        code: ``unknown_vote`` or ``conflict``.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Score:
    """What a reward model says of the two answers of a vote.

    Attributes:
        vote: Its id.
        model: The reward model.
        a: Score of answer a.
        b: Score of answer b.
    """

    vote: str
    model: str
    a: float
    b: float


class FeedbackStore:
    """A file of votes; it is made when the first of them is written.

    Several threads and processes may use one file: each call opens it anew.

    Args:
        path: The file. Two more lie beside it while it is open (-wal and -shm).
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, vote: Vote) -> tuple[Vote, bool]:
        """Store a vote; when this returns, neither kill -9 nor a power cut takes it away.

        Returns:
            The vote as stored, and whether it is new: one sent again is not stored again.

        Raises:
            Refused: If its id was used for another vote, or it undoes what it cannot.
            UserError: If the file is none of ours.
        """
        with self._opened() as db, _written(db):
            stored = _votes(db, "WHERE id = ?", vote.id)
            if stored:
                _require_same(stored[0], vote)
                return stored[0], False
            if vote.undoes is not None:
                _require_undoable(db, vote)
            db.execute(INSERT, [_to_column(name, getattr(vote, name)) for name in COLUMNS])
        return vote, True

    def add_score(self, score: Score) -> None:
        """Store a reward model's scores of a vote's answers; the first ones stay.

        Raises:
            Refused: If there is no such comparison.
        """
        with self._opened() as db, _written(db):
            if not _votes(db, "WHERE id = ? AND kind = 'comparison'", score.vote):
                raise Refused(f"no comparison {score.vote!r} is stored", code="unknown_vote")
            db.execute(
                "INSERT OR IGNORE INTO scores (vote, model, a, b) VALUES (?, ?, ?, ?)",
                (score.vote, score.model, score.a, score.b),
            )

    def votes(self) -> list[Vote]:
        """All votes, the oldest first; none if there is no file yet."""
        if not self.path.exists():
            return []
        with self._opened() as db:
            return _votes(db, "ORDER BY number")

    def scores(self) -> list[Score]:
        """All scores; none if there is no file yet."""
        if not self.path.exists():
            return []
        with self._opened() as db:
            rows = db.execute("SELECT vote, model, a, b FROM scores ORDER BY vote, model")
            return [Score(*row) for row in rows]

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            # Another process may write; a vote waits for it rather than being lost.
            connection = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        except sqlite3.OperationalError as error:
            raise UserError(f"{self.path}: cannot be opened: {error}") from None
        with closing(connection) as db:
            _prepare(db, self.path)
            yield db


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    """Bring the file to the present schema.

    Raises:
        UserError: If it is another program's, or of a later version than is known here.
    """
    try:
        version, owner, tables = db.execute(STATE).fetchone()
    except sqlite3.DatabaseError as error:
        raise UserError(f"{path}: not a file of votes: {error}") from None
    if owner != APPLICATION_ID and tables:
        raise UserError(f"{path}: a database of another program", hint="name another file")
    if version > len(MIGRATIONS):
        raise UserError(
            f"{path}: its schema has version {version}, and {len(MIGRATIONS)} is known here",
            hint="use the version of rlhf_forge that wrote it, or a later one",
        )
    # Where there is no WAL, FULL would not sync the folder behind a commit.
    db.execute("PRAGMA synchronous = EXTRA")
    db.execute("PRAGMA foreign_keys = ON")
    if version < len(MIGRATIONS):
        _migrate(db)
    # Refused while another process has the file open without it; a vote is as durable, and who
    # opens it next will ask again.
    with suppress(sqlite3.OperationalError):
        db.execute("PRAGMA journal_mode = WAL")


def _migrate(db: sqlite3.Connection) -> None:
    with _written(db):
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        # Read again: another process may have been faster.
        [version] = db.execute("PRAGMA user_version").fetchone()
        for script in MIGRATIONS[version:]:
            for statement in _statements(script):
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _statements(script: str) -> Iterator[str]:
    """Each by itself: `executescript` would commit what came before."""
    begun = ""
    for piece in script.split(";"):
        begun += piece + ";"
        if sqlite3.complete_statement(begun):
            if begun.strip(" \n;"):
                yield begun
            begun = ""


@contextmanager
def _written(db: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _votes(db: sqlite3.Connection, where: str, *values: str) -> list[Vote]:
    return [_vote(row) for row in db.execute(f"{SELECT} {where}", values)]


def _vote(row: tuple[Any, ...]) -> Vote:
    return Vote(**{n: _from_column(n, v) for n, v in zip(COLUMNS, row, strict=True)})


def _to_column(name: str, value: Any) -> Any:
    if isinstance(value, Side):
        return value.model_dump_json()
    if name in IN_JSON and value is not None:
        return json.dumps(value, ensure_ascii=False)
    return value


def _from_column(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in {"a", "b"}:
        return Side.model_validate_json(value)
    if name in IN_JSON:
        found = json.loads(value)
        return found if name == "messages" else tuple(found)
    return bool(value) if name == "blind" else value


def _require_same(stored: Vote, sent: Vote) -> None:
    if replace(stored, **NOT_CAST) != replace(sent, **NOT_CAST):  # type: ignore[arg-type]
        raise Refused(f"the id {sent.id!r} belongs to another vote", code="conflict")


def _require_undoable(db: sqlite3.Connection, undo: Vote) -> None:
    found = _votes(db, "WHERE id = ?", undo.undoes or "")
    if not found:
        raise Refused(f"no vote {undo.undoes!r} is stored", code="unknown_vote")
    if found[0].kind == "undo" or found[0].who != undo.who:
        raise Refused(f"{undo.undoes!r} is not a vote of the same person", code="conflict")
    if _votes(db, "WHERE undoes = ?", undo.undoes or ""):
        raise Refused(f"the vote {undo.undoes!r} is undone already", code="conflict")
