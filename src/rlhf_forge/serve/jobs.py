"""What the HTTP process and the worker tell each other: plain data, token ids and numbers."""

from dataclasses import dataclass

from rlhf_forge.generation.engine import Drawn, Entry


@dataclass(frozen=True)
class Generate:
    """Rows to generate, each under a name of its own."""

    entries: list[Entry]


@dataclass(frozen=True)
class Score:
    """Answers to score.

    Attributes:
        name: Of the job.
        role: The reward model.
        rows: Token ids of each whole conversation, and which of them are the answer's.
    """

    name: str
    role: str
    rows: list[tuple[list[int], list[bool]]]


@dataclass(frozen=True)
class Cancel:
    """Rows and scores that nobody waits for any more, by name."""

    names: list[str]


@dataclass(frozen=True)
class Loaded:
    """The worker has its models and takes jobs."""


@dataclass(frozen=True)
class Scored:
    """The scores of a job, in the order of its rows."""

    name: str
    scores: list[float]


@dataclass(frozen=True)
class Failed:
    """Jobs that came to nothing through a fault.

    Attributes:
        names: Of the jobs.
        faults: Steps in a row that failed, this one included.
    """

    names: list[str]
    faults: int = 0


@dataclass(frozen=True)
class Progress:
    """One turn of the engine: its tokens, all in one message, and how full it is.

    Attributes:
        drawn: Tokens of the rows.
        running: Rows in slots.
        waiting: Rows without one.
        held: Tokens in the cache.
    """

    drawn: list[Drawn]
    running: int
    waiting: int
    held: int


@dataclass(frozen=True)
class Died:
    """The worker is gone; what was asked of it will not be answered."""


Order = Generate | Score | Cancel
News = Loaded | Scored | Failed | Progress | Died
