"""Whom an execution belongs to: what the publisher says, and what its tasks publish in turn."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Thread
from typing import Any

import pytest
from celery import chain, signals

import headway
from headway import UsageError, owned_by
from tests.unit.tracing import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


def owner(lab: Lab, **options: Any) -> str | None:
    """Publish, and say whom it belongs to."""
    return lab.record(str(lab.app.send_task("any", **options).id)).owner


def test_a_message_says_its_owner(lab: Lab) -> None:
    """The owner comes from its own header; without one there is no owner."""
    assert owner(lab, headers={"headway_owner": "alice", "tenant": "blue"}) == "alice"
    assert owner(lab) is None
    assert owner(lab, headers={"headway_owner": 17}) == "17"


def test_whatever_is_published_in_the_block(lab: Lab) -> None:
    """The innermost block counts, a message's own header before it, another thread isn't meant, and
    after it all is as before.
    """
    elsewhere: list[str | None] = []
    with owned_by("alice"):
        assert owner(lab) == "alice"
        with owned_by("bob"):
            assert owner(lab) == "bob"
        assert owner(lab, headers={"headway_owner": "carol"}) == "carol"
        thread = Thread(target=lambda: elsewhere.append(owner(lab)))
        thread.start()
        thread.join()
    assert elsewhere == [None]
    assert owner(lab) is None


@pytest.mark.parametrize("wrong", ["", None, 7, b"alice"])
def test_an_owner_is_a_name(wrong: Any) -> None:
    """Else `UsageError`, which says what would be right."""
    with pytest.raises(UsageError, match="str"), owned_by(wrong):
        pass


def test_what_a_task_publishes_is_its_owners(lab: Lab) -> None:
    """Subtasks, a chain's next step and a retry inherit it; a task that speaks for somebody else
    does.
    """
    ids: dict[str, str] = {}

    @lab.task(name="leaf")
    def leaf(_: Any = None) -> None:
        return None

    @lab.task(name="parent", bind=True)
    def parent(self: Any) -> None:
        ids["mine"] = leaf.delay().id
        with owned_by("bob"):
            ids["bobs"] = leaf.delay().id

    def remember(sender: Any = None, headers: Any = None, **_: Any) -> None:
        if headers["task"] == "leaf":
            ids["last"] = headers["id"]

    following = chain(leaf.si().set(task_id="followed"))
    signals.before_task_publish.connect(remember, weak=False)
    try:
        lab.trace(
            parent,
            "p",
            headway_owner="alice",
            chain=[dict(following.tasks[0] if hasattr(following, "tasks") else following)],
        )
    finally:
        signals.before_task_publish.disconnect(remember)
    assert lab.record(ids["mine"]).owner == "alice"
    assert lab.record(ids["bobs"]).owner == "bob"
    assert ids["last"] == "followed"
    assert lab.record("followed").owner == "alice"


def test_a_publisher_without_headway(lab: Lab) -> None:
    """The header alone will do: the worker's first word says whose it is."""

    @lab.task(name="alone")
    def alone() -> None:
        """Sent by another program."""

    lab.trace(alone, "x", headway_owner="alice")
    assert lab.record("x").owner == "alice"


def test_a_retry_keeps_its_owner(lab: Lab) -> None:
    """The next attempt's message names the owner too, so that its own messages inherit it."""
    sent: list[Any] = []

    @lab.task(name="again", bind=True, max_retries=3)
    def again(self: Any) -> None:
        raise self.retry(countdown=0)

    signals.after_task_publish.connect(
        listener := lambda headers=None, **_: sent.append(headers.get("headway_owner")), weak=False
    )
    try:
        lab.trace(again, "r", headway_owner="alice")
    finally:
        signals.after_task_publish.disconnect(listener)
    assert sent == ["alice"]


def test_old_messages_name_it_in_their_headers() -> None:
    """Protocol 1 has the task in the body and the owner in the headers."""
    with Lab() as lab:
        lab.app.conf.task_protocol = 1
        with headway.owned_by("alice"):
            assert owner(lab) == "alice"
