"""Scenarios: ends that Celery stores in its own way, or not at all.

Slugs: celery-facts#ignored-results-have-no-end, celery-facts#where-an-attempt-ends,
celery-facts#postrun-knows-unstored-ends.
"""

from __future__ import annotations

from headway.models import Phase, Status
from tests.faults.environment import Environment, stop
from tests.faults.observers import Expected
from tests.faults.scenarios import scenario

FAILED_HALFWAY = Expected(
    Status.FAILED, current=5, attempt=1, error="ValueError", never=frozenset({Phase.SUCCEEDED})
)


@scenario()
def eager(environment: Environment) -> None:
    """run eagerly by the caller: it works, and is unknown afterwards"""
    for _ in environment.rounds(30):
        result = environment.app.tasks["faults.count"].apply()
        assert result.get() == 10
        environment.observe(result.id)
        environment.expect(result.id, Expected(None, celery="PENDING"))


@scenario(STORE_EAGER="1")
def eager_stored(environment: Environment) -> None:
    """run eagerly with task_store_eager_result: completed, as Celery stores it"""
    for _ in environment.rounds(30):
        result = environment.app.tasks["faults.count"].apply()
        assert result.get() == 10
        environment.observe(result.id)
        environment.expect(result.id, Expected(Status.COMPLETED, outputs=10))


@scenario()
def ignore_result(environment: Environment) -> None:
    """ignore_result: completed or failed, last report kept"""
    worker = environment.start_worker(4)
    for _ in environment.rounds(3):
        ids = [
            environment.send(
                "quiet", False, expected=Expected(Status.COMPLETED, current=5, attempt=1)
            )
            for _ in range(4)
        ]
        ids += [
            environment.send(
                "quiet",
                True,
                expected=Expected(Status.FAILED, current=5, attempt=1, error="ValueError"),
            )
            for _ in range(4)
        ]
        environment.wait_until_ended(*ids)
    stop(worker)


@scenario()
def failed(environment: Environment) -> None:
    """an exception halfway: failed, at half the progress"""
    worker = environment.start_worker(4)
    environment.wait_until_ended(
        *[environment.send("fails", expected=FAILED_HALFWAY) for _ in environment.rounds(24)]
    )
    stop(worker)


@scenario()
def ignored(environment: Environment) -> None:
    """raise Ignore: completed"""
    worker = environment.start_worker(4)
    expected = Expected(Status.COMPLETED, current=5, attempt=1, celery="IGNORED")
    environment.wait_until_ended(
        *[environment.send("ignores", expected=expected) for _ in environment.rounds(24)]
    )
    stop(worker)


@scenario()
def rejected(environment: Environment) -> None:
    """raise Reject: failed"""
    worker = environment.start_worker(4)
    expected = Expected(Status.FAILED, current=5, attempt=1, never=frozenset({Phase.SUCCEEDED}))
    environment.wait_until_ended(
        *[environment.send("rejects", False, expected=expected) for _ in environment.rounds(24)]
    )
    stop(worker)


@scenario()
def rejected_and_requeued(environment: Environment) -> None:
    """raise Reject with requeue: attempt 2 of the same execution"""
    worker = environment.start_worker(4)
    expected = Expected(
        Status.COMPLETED, current=10, attempt=2, outputs="again", never=frozenset({Phase.FAILED})
    )
    environment.wait_until_ended(
        *[environment.send("rejects", True, expected=expected) for _ in environment.rounds(16)]
    )
    stop(worker)


@scenario()
def exited(environment: Environment) -> None:
    """sys.exit in a job: failed"""
    worker = environment.start_worker(4)
    environment.wait_until_ended(
        *[
            environment.send("exits", expected=Expected(Status.FAILED, current=5, attempt=1))
            for _ in environment.rounds(12)
        ]
    )
    stop(worker)


@scenario()
def replaced(environment: Environment) -> None:
    """Task.replace: the new task continues under the same id, and ends once"""
    worker = environment.start_worker(4)
    expected = Expected(
        Status.COMPLETED, current=10, attempt=2, outputs=10, never=frozenset({Phase.FAILED})
    )
    environment.wait_until_ended(
        *[environment.send("replaced", expected=expected) for _ in environment.rounds(16)]
    )
    stop(worker)
