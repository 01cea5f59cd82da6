"""What the client of an event stream has seen, as the id of its last event."""

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
def test_token_of_last_frame_gives_the_later_frames(before: Execution, after: Execution) -> None:
    """With the id of a state's last frame, a client gets what it would have received anyway."""
    *_, last = opening_frames(before, NOW)
    text = str(ResumeToken.after_frame(last["type"], before))
    token = ResumeToken.parse(text)
    assert token is not None
    assert list(frames_between(token.as_execution(after), after, NOW)) == list(
        frames_between(before, after, NOW)
    )


@given(executions(), executions())
def test_token_of_first_of_two_frames_gives_the_second(before: Execution, after: Execution) -> None:
    """If a change has two frames, the first one's id leads to the second, without a repeat."""
    received = list(frames_between(before, after, NOW))
    for number, frame in enumerate(received[:-1]):
        token = ResumeToken.after_frame(frame["type"], after)
        assert token is not None
        assert list(frames_between(token.as_execution(after), after, NOW)) == received[number + 1 :]


def test_token_of_terminal_status_gives_the_end() -> None:
    """A terminal execution is ``status`` and its end; with the first one's id, the end follows."""
    ended = Execution("x", Status.FAILED, Phase.FAILED, Progress(1, 2), attempt=1)
    status, end = opening_frames(ended, NOW)
    token = ResumeToken.after_frame(status["type"], ended)
    assert token is not None
    assert list(frames_between(token.as_execution(ended), ended, NOW)) == [end]


def test_equal_reports_have_equal_tokens() -> None:
    """Time and rate of a report do not change its token, so no report is sent again."""
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
def test_unknown_token_is_ignored(text: str) -> None:
    """An id that Headway did not write is ignored: its client receives everything."""
    assert ResumeToken.parse(text) is None


def test_client_with_newer_state_is_not_set_back() -> None:
    """A client that reconnects with newer state than this process has gets no older state."""
    with mounted_app() as server:
        server.publish("a")
        server.begin("a")
        server.report("a", 1, 4)
        viewer = LongPoll(60.0)
        server.headway.hub.attach("a", viewer)
        viewer.wait(lambda execution: execution.progress is not None, 60)
        # The message of this report does not reach this process.
        callbacks, server.store._callbacks = server.store._callbacks, []
        server.report("a", 2, 4)
        server.store._callbacks = callbacks
        known = ResumeToken.after_frame("progress", server.headway.get_execution("a"))
        response = server.client.get(
            "/api/v1/executions/a/progress/events", headers={"Last-Event-ID": str(known)}
        )
        server.end("a")
        received = response.get_data(as_text=True)
        server.headway.hub.detach("a", viewer)
    assert re.findall("event: (.*)", received) == ["completed"]
