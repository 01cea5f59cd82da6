"""The two GETs of the Progress Query API and Tensorlake's poll, over the fakes."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator

import pytest
from werkzeug.test import TestResponse

from tests.support.flask_app import MountedApp, mounted_app
from tests.support.wait import until
from tests.unit.test_problems import assert_problem

EXECUTION = "/api/v1/executions/x"
PROGRESS = "/api/v1/executions/x/progress"
TENSORLAKE = "/applications/app/requests/x/progress"
NAMESPACED = "/v1/namespaces/default/applications/app/requests/x/progress"
POLLS = [PROGRESS, TENSORLAKE, NAMESPACED]
EVERY = [EXECUTION, *POLLS]


@pytest.fixture
def server() -> Iterator[MountedApp]:
    with mounted_app() as made:
        yield made


def running(
    server: MountedApp, current: float = 2, total: float = 5, message: str = "processing"
) -> None:
    server.publish("x")
    server.begin("x")
    server.report("x", current, total, message, batch="3")


class TestExecution:
    KEYS = frozenset(
        {
            "execution_id",
            "status",
            "phase",
            "progress",
            "task",
            "attempt",
            "outputs",
            "error",
            "created_at",
            "started_at",
            "updated_at",
            "finished_at",
        }
    )

    def test_every_key_is_always_there(self, server: MountedApp) -> None:
        """Queued, running, ended: the same keys, null where there is nothing."""
        server.publish("x")
        shown = [server.client.get(EXECUTION).json]
        server.begin("x")
        shown.append(server.client.get(EXECUTION).json)
        server.report("x", 2, 5)
        shown.append(server.client.get(EXECUTION).json)
        server.end("x", result={"rows": 7})
        shown.append(server.client.get(EXECUTION).json)
        assert all(set(body) >= self.KEYS for body in shown)
        assert [body["status"] for body in shown] == ["pending", "running", "running", "completed"]
        assert shown[0]["progress"] is None
        assert shown[3]["outputs"] == {"rows": 7}
        assert shown[3]["progress"]["percentage"] == 40.0

    def test_a_failed_job_is_a_200(self, server: MountedApp) -> None:
        """The question was answered: the job failed, at 40 %, with its error and no traceback."""
        running(server)
        server.end(
            "x",
            "FAILURE",
            {"exc_type": "ValueError", "exc_message": ["no such row"], "exc_module": "builtins"},
        )
        response = server.client.get(EXECUTION)
        assert response.status_code == 200
        assert response.json["status"] == "failed"
        assert response.json["error"]["type"] == "ValueError"
        assert response.json["error"]["message"] == "no such row"
        assert response.json["progress"]["percentage"] == 40.0
        assert b"Traceback" not in response.data

    def test_unknown(self, server: MountedApp) -> None:
        """An id that nobody published is a 404 that names it."""
        for path in EVERY:
            assert_problem(server.client.get(path), 404, "Execution 'x' not found")

    def test_expired(self, server: MountedApp) -> None:
        """One whose result is gone was known once: 410."""
        running(server)
        server.end("x")
        server.clock.tick(86401)
        for path in EVERY:
            assert_problem(server.client.get(path), 410, "expired")


class TestProgress:
    def test_all_four_fields_of_the_seed_document(self, server: MountedApp) -> None:
        """2 of 5 is 40.0, an int of steps and a float of percent."""
        running(server)
        body = server.client.get(PROGRESS).json
        assert (
            body["current_step"],
            body["total_steps"],
            body["percentage"],
            body["current_step_name"],
        ) == (
            2,
            5,
            40.0,
            "processing",
        )
        assert isinstance(body["percentage"], float)
        assert set(body) == {
            "current_step",
            "total_steps",
            "percentage",
            "current_step_name",
            "message",
            "attributes",
            "current",
            "total",
            "indeterminate",
            "rate",
            "eta_seconds",
            "timestamp",
        }

    def test_tensorlakes_fields(self, server: MountedApp) -> None:
        """Tensorlake's body has its five fields and no others; the timestamp is in milliseconds."""
        running(server, 45, 100, "Processing")
        stamp = round(server.clock().timestamp() * 1000)
        wanted = {
            "current": 45,
            "total": 100,
            "message": "Processing",
            "attributes": {"batch": "3"},
            "timestamp": stamp,
        }
        assert server.client.get(TENSORLAKE).json == wanted
        assert server.client.get(NAMESPACED).json == wanted

    @pytest.mark.parametrize("path", POLLS)
    def test_nothing_reported_yet(self, server: MountedApp, path: str) -> None:
        """204, with no body and no type of a body."""
        server.publish("x")
        response = server.client.get(path)
        assert (response.status_code, response.data) == (204, b"")
        assert "Content-Type" not in response.headers
        assert "ETag" not in response.headers

    def test_nothing_was_ever_reported(self, server: MountedApp) -> None:
        """Also after an end that had no progress, and then there is nothing to wait for."""
        server.publish("x")
        server.begin("x")
        server.end("x")
        response = server.client.get(PROGRESS)
        assert response.status_code == 204
        assert "Retry-After" not in response.headers


class TestCaching:
    @pytest.mark.parametrize("path", EVERY)
    def test_not_modified(self, server: MountedApp, path: str) -> None:
        """The same bytes have the same strong tag, and If-None-Match with it is a 304 without a
        body.
        """
        running(server)
        first = server.client.get(path)
        tag = first.headers["ETag"]
        assert not tag.startswith("W/")
        assert server.client.get(path).headers["ETag"] == tag
        for given in (tag, f'"other", {tag}', f"W/{tag}", "*"):
            again = server.client.get(path, headers={"If-None-Match": given})
            assert (again.status_code, again.data) == (304, b"")
            assert again.headers["ETag"] == tag
            assert again.headers["Retry-After"]

    @pytest.mark.parametrize("path", EVERY)
    def test_modified(self, server: MountedApp, path: str) -> None:
        """A change has another tag, and the old one gets the new body."""
        running(server)
        tag = server.client.get(path).headers["ETag"]
        server.report("x", 3, 5)
        response = server.client.get(path, headers={"If-None-Match": tag})
        assert response.status_code == 200
        assert response.headers["ETag"] != tag

    @pytest.mark.parametrize("path", EVERY)
    def test_never_served_unasked(self, server: MountedApp, path: str) -> None:
        """Caches may keep it, and ask each time."""
        running(server)
        assert server.client.get(path).headers["Cache-Control"] == "no-cache"

    @pytest.mark.parametrize("path", EVERY)
    def test_retry_after_until_the_end(self, server: MountedApp, path: str) -> None:
        """While it isn't terminal a client is told when to ask again; after the end no more."""
        server.publish("x")
        assert int(server.client.get(path).headers["Retry-After"]) >= 1
        server.begin("x")
        server.report("x", 1, 2)
        assert int(server.client.get(path).headers["Retry-After"]) >= 1
        server.end("x")
        assert "Retry-After" not in server.client.get(path).headers

    @pytest.mark.parametrize("path", EVERY)
    def test_head_and_options(self, server: MountedApp, path: str) -> None:
        """HEAD is GET without the body; OPTIONS says what there is."""
        running(server)
        got, head = server.client.get(path), server.client.head(path)
        assert head.data == b""
        assert head.headers["ETag"] == got.headers["ETag"]
        assert head.headers["Content-Length"] == got.headers["Content-Length"]
        options = server.client.options(path)
        assert options.status_code == 200
        assert {"GET", "HEAD", "OPTIONS"} == {
            method.strip() for method in options.headers["Allow"].split(",")
        }


class TestMalformed:
    @pytest.mark.parametrize(
        "made_up",
        ["x" * 256, "a%00b", "a%0Ab", "a%0D%0Ab", "%FF%FE", "a%7Fb", "a%E2%80%8Bb", "%09"],
    )
    def test_ids(self, server: MountedApp, made_up: str) -> None:
        """An id that can't be one is a 422 that says what is wrong, before the store is asked."""
        server.store.away = True
        for path in (
            "/api/v1/executions/{}",
            "/api/v1/executions/{}/progress",
            "/applications/a/requests/{}/progress",
        ):
            assert_problem(server.client.get(path.format(made_up)), 422, "id")

    @pytest.mark.parametrize(
        "sane", ["x" * 255, "exec_123456", "7f1c-aa", "a b", "a.b:c@d", "%C3%A9", "..", "a%25b"]
    )
    def test_other_ids_are_as_good_as_any(self, server: MountedApp, sane: str) -> None:
        """Whoever makes up ids has much room."""
        assert_problem(server.client.get(f"/api/v1/executions/{sane}"), 404)

    @pytest.mark.parametrize(
        "wait", ["", "soon", "-1", "nan", "inf", "-inf", "1e999", "1,5", "0x10", "1s"]
    )
    @pytest.mark.parametrize("path", EVERY)
    def test_wait(self, server: MountedApp, path: str, wait: str) -> None:
        """A wait that is no number of seconds is a 422."""
        running(server)
        assert_problem(server.client.get(path, query_string={"wait": wait}), 422, "wait")


class TestWait:
    """``?wait=`` holds an answer back until it is news to the caller."""

    def ask(
        self, server: MountedApp, path: str, tag: str | None = None
    ) -> tuple[threading.Thread, list[TestResponse]]:
        answers: list[TestResponse] = []
        headers = {} if tag is None else {"If-None-Match": tag}
        thread = threading.Thread(
            target=lambda: answers.append(server.app.test_client().get(path, headers=headers))
        )
        thread.start()
        return thread, answers

    def answer(self, thread: threading.Thread, answers: list[TestResponse]) -> TestResponse:
        thread.join(60)
        assert answers, "no answer came"
        return answers[0]

    def test_what_is_new_comes_at_once(self, server: MountedApp) -> None:
        """A caller that has nothing, or something older, isn't held."""
        running(server)
        assert server.client.get(PROGRESS, query_string={"wait": "30"}).json["percentage"] == 40.0
        assert (
            server.client.get(
                PROGRESS, query_string={"wait": "30"}, headers={"If-None-Match": '"old"'}
            ).status_code
            == 200
        )

    @pytest.mark.parametrize("path", EVERY)
    def test_held_until_there_is_news(self, server: MountedApp, path: str) -> None:
        """A caller that has the newest is answered when there is a newer one."""
        running(server)
        tag = server.client.get(path).headers["ETag"]
        held = self.ask(server, f"{path}?wait=30", tag)
        until(lambda: server.feed.watched, what="the poll to be held")
        assert not held[1]
        server.clock.tick(1)
        server.report("x", 3, 5)
        answer = self.answer(*held)
        assert answer.status_code == 200
        assert answer.headers["ETag"] != tag
        until(lambda: not server.feed.watched, what="the watch to end")

    def test_held_while_nothing_was_reported(self, server: MountedApp) -> None:
        """Where there was nothing yet, the first report is the news."""
        server.publish("x")
        server.begin("x")
        held = self.ask(server, f"{PROGRESS}?wait=30")
        until(lambda: server.feed.watched, what="the poll to be held")
        server.report("x", 1, 5)
        assert self.answer(*held).json["current"] == 1

    def test_the_end_lets_go(self, server: MountedApp) -> None:
        """After the end nothing newer comes: whoever has the last progress already gets its 304,
        with no Retry-After.
        """
        running(server)
        tag = server.client.get(PROGRESS).headers["ETag"]
        held = self.ask(server, f"{PROGRESS}?wait=30", tag)
        until(lambda: server.feed.watched, what="the poll to be held")
        server.end("x")
        answer = self.answer(*held)
        assert answer.status_code == 304
        assert "Retry-After" not in answer.headers

    def test_time_runs_out(self, server: MountedApp) -> None:
        """With no news in time the answer is what it would have been without waiting."""
        server.headway.hub.first_read = 60.0
        running(server)
        tag = server.client.get(PROGRESS).headers["ETag"]
        assert (
            server.client.get(
                PROGRESS, query_string={"wait": "0.01"}, headers={"If-None-Match": tag}
            ).status_code
            == 304
        )
        server.publish("y")
        assert server.client.get("/api/v1/executions/y/progress?wait=0").status_code == 204

    def test_longer_than_granted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever asks for an hour is held 30 seconds at most."""
        with mounted_app() as server:
            running(server)
            asked: list[float] = []

            def wait(execution_id: str, is_news: object, timeout: float) -> object:
                asked.append(timeout)
                return server.headway.get_execution(execution_id)

            monkeypatch.setattr(server.headway.hub, "wait", wait)
            for seconds in ("3600", "30", "20"):
                server.client.get(PROGRESS, query_string={"wait": seconds})
            assert asked == [30.0, 30.0, 20.0]

    def test_unknown_and_away(self, server: MountedApp) -> None:
        """Waiting for what nobody knows is a 404 at once; a backend that is away is a 503 and not a
        long silence.
        """
        assert_problem(server.client.get(PROGRESS, query_string={"wait": "30"}), 404)
        server.store.away = True
        assert_problem(server.client.get(PROGRESS, query_string={"wait": "30"}), 503)

    def test_no_seat_is_left(self) -> None:
        """A held poll takes a viewer's seat; with none left it is a 429 that says when to try
        again, as an event stream is.
        """
        with mounted_app(max_viewers=1) as server:
            running(server)
            tag = server.client.get(PROGRESS).headers["ETag"]
            held = self.ask(server, f"{PROGRESS}?wait=30", tag)
            until(lambda: server.feed.watched, what="the poll to be held")
            for path, more in (
                (f"{PROGRESS}?wait=30", {"If-None-Match": tag}),
                (f"{PROGRESS}/events", {}),
                (TENSORLAKE, {"Accept": "text/event-stream"}),
                (NAMESPACED, {"Accept": "text/event-stream"}),
            ):
                response = server.client.get(path, headers=more)
                assert_problem(response, 429)
                assert response.headers["Retry-After"]
            assert server.client.get(PROGRESS).status_code == 200
            server.end("x")
            self.answer(*held)


class TestTensorlakeStream:
    @pytest.mark.parametrize(
        ("accept", "streams"),
        [
            (None, False),
            ("*/*", False),
            ("application/json", False),
            ("application/*", False),
            ("application/json, text/event-stream;q=0.5", False),
            ("text/event-stream", True),
            ("text/event-stream, */*;q=0.1", True),
        ],
    )
    @pytest.mark.parametrize("path", [TENSORLAKE, NAMESPACED])
    def test_who_gets_a_stream(
        self, server: MountedApp, path: str, accept: str | None, streams: bool
    ) -> None:
        """Whoever asks for events gets events, whoever takes anything gets JSON: the same report,
        and the stream ends with it.
        """
        running(server)
        server.end("x")
        response = server.client.get(path, headers={} if accept is None else {"Accept": accept})
        assert response.status_code == 200
        assert response.mimetype == ("text/event-stream" if streams else "application/json")
        assert streams or response.headers["Vary"] == "Accept"
        reports = (
            re.findall(r"^data: (.*)$", response.text, re.MULTILINE) if streams else [response.text]
        )
        assert [json.loads(each)["message"] for each in reports] == ["processing"]

    def test_off(self) -> None:
        """An app that has these paths itself can do without them."""
        with mounted_app(tensorlake=False) as server:
            running(server)
            assert server.client.get(TENSORLAKE).status_code == 404


def test_bodies_are_strict_json(server: MountedApp) -> None:
    """Whatever a task returned, no browser chokes on it: NaN is null, and the body is UTF-8."""
    running(server)
    server.end("x", result={"mean": float("nan"), "name": "Zoë"})
    response = server.client.get(EXECUTION)

    def refuse(word: str) -> None:
        raise AssertionError(word)

    assert json.loads(response.data, parse_constant=refuse)["outputs"] == {
        "mean": None,
        "name": "Zoë",
    }
    assert "Zoë".encode() in response.data
