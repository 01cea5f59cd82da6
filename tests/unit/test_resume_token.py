"""How far a client of server-sent events has read."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.core.frames import frames_between, opening_frames
from headway.models import Execution, Phase, Progress, Status
from headway.server.streams.long_poll import LongPoll
from headway.server.streams.sse import ResumeToken
from tests.support.flask_app import mounted_app

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PHASES = {
    Phase.QUEUED: Status.PENDING,
    Phase.CANCELLING: Status.PENDING,
    Phase.RUNNING: Status.RUNNING,
    Phase.RETRYING: Status.RUNNING,
    Phase.STALLED: Status.RUNNING,
    Phase.SUCCEEDED: Status.COMPLETED,
    Phase.FAILED: Status.FAILED,
    Phase.CANCELLED: Status.CANCELLED,
}

progresses = st.none() | st.builds(
    Progress,
    current=st.sampled_from([1, 1.5, 2]),
    total=st.sampled_from([None, 4]),
    message=st.sampled_from([None, "", "one"]),
    attributes=st.sampled_from([None, {}, {"a": "b"}]),
    timestamp=st.sampled_from([None, NOW]),
)


@st.composite
def executions(draw: st.DrawFn) -> Execution:
    phase = draw(st.sampled_from(sorted(PHASES)))
    status = (
        draw(st.sampled_from([Status.RUNNING, PHASES[phase]]))
        if phase is Phase.CANCELLING
        else PHASES[phase]
    )
    return Execution("x", status, phase, draw(progresses), attempt=draw(st.integers(0, 2)))


@given(executions(), executions())
def test_who_comes_back_is_told_what_came_since(before: Execution, after: Execution) -> None:
    """With the id of the last frame about one state, a client is told of the next what it would
    have been told anyway.
    """
    *_, last = opening_frames(before, NOW)
    written = str(ResumeToken.after_frame(last["type"], before))
    bookmark = ResumeToken.parse(written)
    assert bookmark is not None
    assert list(frames_between(bookmark.as_execution(after), after, NOW)) == list(
        frames_between(before, after, NOW)
    )


@given(executions(), executions())
def test_who_was_cut_off_between_two_frames(before: Execution, after: Execution) -> None:
    """Where one change is told in two frames, who has the first one's id is still told the second,
    and not the first again.
    """
    told = list(frames_between(before, after, NOW))
    for number, frame in enumerate(told[:-1]):
        bookmark = ResumeToken.after_frame(frame["type"], after)
        assert bookmark is not None
        assert list(frames_between(bookmark.as_execution(after), after, NOW)) == told[number + 1 :]


def test_who_saw_the_status_of_an_end() -> None:
    """An end is told as ``status`` and its own frame to who comes after it; with the first one's id
    the second is still owed.
    """
    over = Execution("x", Status.FAILED, Phase.FAILED, Progress(1, 2), attempt=1)
    status, end = opening_frames(over, NOW)
    bookmark = ResumeToken.after_frame(status["type"], over)
    assert bookmark is not None
    assert list(frames_between(bookmark.as_execution(over), over, NOW)) == [end]


def test_the_same_report_has_the_same_mark() -> None:
    """What differs for no viewer (when it was said, how fast it goes) makes no other mark: nothing
    would be told again.
    """
    one = Execution(
        "x", Status.RUNNING, Phase.RUNNING, Progress(1, 2, "a", {"b": "c"}, NOW, 1.0), attempt=1
    )
    assert one.progress is not None
    other = replace(one, progress=replace(one.progress, timestamp=None, rate=2.0), updated_at=NOW)
    assert str(ResumeToken.after_frame("progress", one)) == str(
        ResumeToken.after_frame("progress", other)
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1-completed",
        "1-running-queued",
        "1-running-nowhere-",
        "x-running-running-",
        "1-2-3-4",
    ],
)
def test_what_is_no_mark(text: str) -> None:
    """An id that nobody here wrote says nothing: its client is told everything."""
    assert ResumeToken.parse(text) is None


def test_who_knows_more_than_this_process() -> None:
    """A client that comes back from another process, which has heard of more, isn't led back to
    what this one knows.
    """
    with mounted_app() as server:
        server.publish("a")
        server.begin("a")
        server.report("a", 1, 4)
        eye = LongPoll(60.0)
        server.headway.hub.attach("a", eye)
        eye.wait(lambda seen: seen.progress is not None, 60)
        callbacks, server.store._callbacks = (
            server.store._callbacks,
            [],
        )  # a message that is still on its way here
        server.report("a", 2, 4)
        server.store._callbacks = callbacks
        known = ResumeToken.after_frame("progress", server.headway.get_execution("a"))
        answer = server.client.get(
            "/api/v1/executions/a/progress/events", headers={"Last-Event-ID": str(known)}
        )
        server.end("a")
        told = answer.get_data(as_text=True)
        server.headway.hub.detach("a", eye)
    assert re.findall("event: (.*)", told) == ["completed"]
