"""The scenarios of the fault matrix, and the decorator that declares one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.environment import Environment
from tests.support.timing import seconds

#: Seconds after which a scenario is stopped and counts as wrong.
TIME_LIMIT = seconds(150.0)

Run = Callable[[Environment], None]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of fault."""

    #: The function's name, and the name on the command line.
    name: str
    #: The fault and the expected result: the function's docstring.
    description: str
    run: Run
    #: The settings of its `Environment`.
    settings: dict[str, str]


#: All scenarios by name, in the order of their declaration.
SCENARIOS: dict[str, Scenario] = {}


def scenario(**settings: str) -> Callable[[Run], Run]:
    """Declare a scenario. ``settings`` as for `Environment`."""

    def declare(run: Run) -> Run:
        name = run.__name__
        assert name not in SCENARIOS, f"two scenarios are called {name}"
        SCENARIOS[name] = Scenario(name, (run.__doc__ or name).strip(), run, settings)
        return run

    return declare
