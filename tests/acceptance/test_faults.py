"""A small fault matrix: some scenarios of each kind (``make faults``: all, many times)."""

from __future__ import annotations

import celery

from tests.faults.matrix import SCENARIOS, run_matrix
from tests.faults.report import format_result

#: One scenario or two of each module of `tests.faults`. All of them together take minutes.
REPRESENTATIVE = [
    "child_killed_while_reporting",
    "worker_killed",
    "hard_limit",
    "limit_after_terminate",
    "finally_after_terminate",
    "revoke_queued",
    "cancel_during_end",
    "cancel_queued_without_worker",
    "child_lost_and_requeued",
    "retry_at_once",
    "one_worker_older_lost",
    "backend_restarted",
    "backend_lost_its_data",
    "broker_restarted",
    "silent_until_expiry",
    "clock_set_back",
    "ignore_result",
    "replaced",
]


def test_representative_faults_show_no_wrong_state() -> None:
    """Under each fault, viewer, poller and Celery's own record show what really happened."""
    assert set(REPRESENTATIVE) <= set(SCENARIOS)
    results = run_matrix(REPRESENTATIVE, [celery.__version__], scale=0.0, at_once=3)
    wrong = [
        format_result(name, version, result)
        for (name, version), result in results.items()
        if not result.passed
    ]
    assert not wrong, "\n".join(wrong)
