"""The owner of an execution: set by its publisher, and inherited by what its task publishes."""

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


def publish_and_read_owner(lab: Lab, **options: Any) -> str | None:
    """Publish a message, and return the owner of its execution."""
    return lab.record(str(lab.app.send_task("any", **options).id)).owner


def test_owner_comes_from_the_message_header(lab: Lab) -> None:
    """Without the header there is no owner."""
    assert (
        publish_and_read_owner(lab, headers={"headway_owner": "alice", "tenant": "blue"}) == "alice"
    )
    assert publish_and_read_owner(lab) is None
    assert publish_and_read_owner(lab, headers={"headway_owner": 17}) == "17"


def test_owned_by_applies_to_messages_published_in_its_block(lab: Lab) -> None:
    """The innermost block counts, and a message's own header takes precedence. Other threads are
    not affected, and the block ends.
    """
    elsewhere: list[str | None] = []
    with owned_by("alice"):
        assert publish_and_read_owner(lab) == "alice"
        with owned_by("bob"):
            assert publish_and_read_owner(lab) == "bob"
        assert publish_and_read_owner(lab, headers={"headway_owner": "carol"}) == "carol"
        thread = Thread(target=lambda: elsewhere.append(publish_and_read_owner(lab)))
        thread.start()
        thread.join()
    assert elsewhere == [None]
    assert publish_and_read_owner(lab) is None


@pytest.mark.parametrize("wrong", ["", None, 7, b"alice"])
def test_owned_by_without_a_name_raises(wrong: Any) -> None:
    """The `UsageError` names a valid value."""
    with pytest.raises(UsageError, match="str"), owned_by(wrong):
        pass


def test_subtasks_and_chain_inherit_the_owner(lab: Lab) -> None:
    """Subtasks and a chain's next step inherit the owner, unless the task sets another one."""
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


def test_owner_of_an_unregistered_message_is_stored_at_the_start(lab: Lab) -> None:
    """The publisher has no Headway: the worker stores the owner from the header."""

    @lab.task(name="alone")
    def alone() -> None:
        """Sent by another program."""

    lab.trace(alone, "x", headway_owner="alice")
    assert lab.record("x").owner == "alice"


def test_retry_message_has_the_owner(lab: Lab) -> None:
    """The next attempt's message has the owner too, so that its own messages inherit it."""
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


def test_protocol_1_message_has_the_owner_in_its_headers() -> None:
    """Protocol 1 has the task in the body and the owner in the headers."""
    with Lab() as lab:
        lab.app.conf.task_protocol = 1
        with headway.owned_by("alice"):
            assert publish_and_read_owner(lab) == "alice"
