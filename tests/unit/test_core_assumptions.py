"""What the pure core repeats because it must not import Celery or the worker."""

from __future__ import annotations

import celery.states

from headway.core.meta import OWN_KEYS
from headway.core.registry import READY_STATES
from headway.worker.validation import to_meta


def test_ready_states_are_those_of_celery() -> None:
    """Celery's own, and the two that it doesn't store."""
    assert READY_STATES - {"IGNORED", "REJECTED"} == celery.states.READY_STATES


def test_own_keys_are_those_of_a_report() -> None:
    """A report of the worker has exactly the keys by which the core recognizes it."""
    assert to_meta((9, 10, None, None), 1.0, None, 1).keys() == OWN_KEYS
