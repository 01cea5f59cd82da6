"""The registry for backends of which little is known, where a time limit strikes the task that asks
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from unittest import mock

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from headway.errors import Unavailable
from headway.stores.keyvalue import DocumentStore
from headway.stores.result_backend import ResultBackend
from tests.support.interrupts import interrupt_at


class Shelf(DocumentStore):
    """Documents in a dict; raises what it is told to."""

    def __init__(self) -> None:
        super().__init__(None, results=mock.Mock())
        self.documents: dict[str, Mapping[str, Any]] = {}
        self.fault: Exception | None = None

    def _load(self, name: str) -> Mapping[str, Any] | None:
        if self.fault is not None:
            raise self.fault
        return self.documents.get(name)

    def _save(self, name: str, document: Mapping[str, Any]) -> None:
        self.documents[name] = document


def test_a_strike_is_no_outage() -> None:
    """A time limit that strikes in the driver ends the task, and isn't taken for a fault of the
    backend.
    """
    shelf = Shelf()
    shelf.fault = SoftTimeLimitExceeded()
    with pytest.raises(SoftTimeLimitExceeded):
        shelf.ping()
    shelf.fault = KeyError()
    with pytest.raises(Unavailable):
        shelf.ping()


def test_a_strike_in_a_read_of_results_is_no_outage() -> None:
    """As above, where the result itself is read."""
    results = mock.Mock()
    results._read_one.side_effect = SoftTimeLimitExceeded
    with pytest.raises(SoftTimeLimitExceeded):
        ResultBackend.read(results, ["one"])


def test_a_strike_at_any_step_keeps_no_lock() -> None:
    """Wherever it strikes, the next one has its turn."""
    shelf, step = Shelf(), 1
    while interrupt_at(step, shelf.ping):
        assert not any(lock.locked() for lock in shelf._locks.values()), f"struck at step {step}"
        step += 1
    assert step > 5
