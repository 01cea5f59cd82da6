"""What a row of the matrix is, and the list of all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.environment import Room

#: Seconds after which a row that has not ended is stopped, and counts as wrong.
LIMIT = 150.0

Play = Callable[[Room], None]


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of fault."""

    #: What it is called on the command line: the function's name.
    name: str
    #: What is done and what has to be shown: the first line of the function's docstring.
    sentence: str
    play: Play
    #: What its room is furnished with (`Room`).
    settings: dict[str, str]


#: All rows, in the order in which they were declared.
ROWS: dict[str, Row] = {}


def row(**settings: str) -> Callable[[Play], Play]:
    """Declare a row. ``settings`` as for `Room`."""

    def declare(play: Play) -> Play:
        name = play.__name__
        assert name not in ROWS, f"two rows are called {name}"
        ROWS[name] = Row(name, (play.__doc__ or name).strip().splitlines()[0], play, settings)
        return play

    return declare
