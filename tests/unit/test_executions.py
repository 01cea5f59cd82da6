"""GET of an execution and of its progress, and Tensorlake's poll, over the fakes."""

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

    def test_every_key_is_always_present(self, server: MountedApp) -> None:
        """Queued, running or terminal: the same keys, null if there is no value."""
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

    def test_failed_execution_is_200_with_its_error(self, server: MountedApp) -> None:
        """A failed execution is a 200 with its progress and error, without the traceback."""
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

    def test_unknown_execution_is_404(self, server: MountedApp) -> None:
        """An id that was never published is a 404 that names the id."""
        for path in EVERY:
            assert_problem(server.client.get(path), 404, "Execution 'x' not found")

    def test_expired_execution_is_410(self, server: MountedApp) -> None:
        """An execution whose result is gone is a 410."""
        running(server)
        server.end("x")
        server.clock.tick(86401)
        for path in EVERY:
            assert_problem(server.client.get(path), 410, "expired")


class TestProgress:
    def test_progress_has_the_promised_fields(self, server: MountedApp) -> None:
        """The four fields of the original API and ours; 2 of 5 is the float 40.0."""
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

    def test_tensorlake_body_has_its_five_fields(self, server: MountedApp) -> None:
        """Tensorlake's body has its five fields and no others; its timestamp is in milliseconds."""
        running(server, 45, 100, "Processing")
        stamp = round(server.clock().timestamp() * 1000)
        expected = {
            "current": 45,
            "total": 100,
            "message": "Processing",
            "attributes": {"batch": "3"},
            "timestamp": stamp,
        }
        assert server.client.get(TENSORLAKE).json == expected
        assert server.client.get(NAMESPACED).json == expected

    @pytest.mark.parametrize("path", POLLS)
    def test_no_report_yet_is_204(self, server: MountedApp, path: str) -> None:
        """204, without a body and a content type."""
        server.publish("x")
        response = server.client.get(path)
        assert (response.status_code, response.data) == (204, b"")
        assert "Content-Type" not in response.headers
        assert "ETag" not in response.headers

    def test_end_without_report_is_204_without_retry_after(self, server: MountedApp) -> None:
        """After an end without a report too; then there is nothing to wait for."""
        server.publish("x")
        server.begin("x")
        server.end("x")
        response = server.client.get(PROGRESS)
        assert response.status_code == 204
        assert "Retry-After" not in response.headers


class TestCaching:
    @pytest.mark.parametrize("path", EVERY)
    def test_matching_etag_is_304(self, server: MountedApp, path: str) -> None:
        """The same bytes have the same strong tag; If-None-Match with it gives an empty 304."""
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
    def test_change_has_another_etag(self, server: MountedApp, path: str) -> None:
        """A change has another tag, and the old tag gets the new body."""
        running(server)
        tag = server.client.get(path).headers["ETag"]
        server.report("x", 3, 5)
        response = server.client.get(path, headers={"If-None-Match": tag})
        assert response.status_code == 200
        assert response.headers["ETag"] != tag

    @pytest.mark.parametrize("path", EVERY)
    def test_caches_must_revalidate(self, server: MountedApp, path: str) -> None:
        """Caches may keep a response, but must revalidate it each time."""
        running(server)
        assert server.client.get(path).headers["Cache-Control"] == "no-cache"

    @pytest.mark.parametrize("path", EVERY)
    def test_retry_after_is_sent_until_the_end(self, server: MountedApp, path: str) -> None:
        """Until the state is terminal, Retry-After tells when to poll again."""
        server.publish("x")
        assert int(server.client.get(path).headers["Retry-After"]) >= 1
        server.begin("x")
        server.report("x", 1, 2)
        assert int(server.client.get(path).headers["Retry-After"]) >= 1
        server.end("x")
        assert "Retry-After" not in server.client.get(path).headers

    @pytest.mark.parametrize("path", EVERY)
    def test_head_and_options_match_get(self, server: MountedApp, path: str) -> None:
        """HEAD is GET without the body; OPTIONS lists the methods."""
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
        "invalid",
        ["x" * 256, "a%00b", "a%0Ab", "a%0D%0Ab", "%FF%FE", "a%7Fb", "a%E2%80%8Bb", "%09"],
    )
    def test_invalid_id_is_422_without_a_read(self, server: MountedApp, invalid: str) -> None:
        """An invalid id is a 422 with the reason, before the store is read."""
        server.store.away = True
        for path in (
            "/api/v1/executions/{}",
            "/api/v1/executions/{}/progress",
            "/applications/a/requests/{}/progress",
        ):
            assert_problem(server.client.get(path.format(invalid)), 422, "id")

    @pytest.mark.parametrize(
        "valid", ["x" * 255, "exec_123456", "7f1c-aa", "a b", "a.b:c@d", "%C3%A9", "..", "a%25b"]
    )
    def test_unusual_id_is_valid(self, server: MountedApp, valid: str) -> None:
        """Custom ids may contain any printable characters but a slash."""
        assert_problem(server.client.get(f"/api/v1/executions/{valid}"), 404)

    @pytest.mark.parametrize(
        "wait", ["", "soon", "-1", "nan", "inf", "-inf", "1e999", "1,5", "0x10", "1s"]
    )
    @pytest.mark.parametrize("path", EVERY)
    def test_invalid_wait_is_422(self, server: MountedApp, path: str, wait: str) -> None:
        """A wait that is not a number of seconds is a 422."""
        running(server)
        assert_problem(server.client.get(path, query_string={"wait": wait}), 422, "wait")


class TestWait:
    """``?wait=`` holds the response until the state differs from what the client has."""

    def start_poll(
        self, server: MountedApp, path: str, tag: str | None = None
    ) -> tuple[threading.Thread, list[TestResponse]]:
        responses: list[TestResponse] = []
        headers = {} if tag is None else {"If-None-Match": tag}
        thread = threading.Thread(
            target=lambda: responses.append(server.app.test_client().get(path, headers=headers))
        )
        thread.start()
        return thread, responses

    def result(self, thread: threading.Thread, responses: list[TestResponse]) -> TestResponse:
        thread.join(60)
        assert responses, "no response came"
        return responses[0]

    def test_newer_state_is_returned_at_once(self, server: MountedApp) -> None:
        """A client without a state, or with an older one, does not wait."""
        running(server)
        assert server.client.get(PROGRESS, query_string={"wait": "30"}).json["percentage"] == 40.0
        assert (
            server.client.get(
                PROGRESS, query_string={"wait": "30"}, headers={"If-None-Match": '"old"'}
            ).status_code
            == 200
        )

    @pytest.mark.parametrize("path", EVERY)
    def test_poll_is_held_until_the_state_changes(self, server: MountedApp, path: str) -> None:
        """A client that has the newest state gets the next one."""
        running(server)
        tag = server.client.get(path).headers["ETag"]
        held = self.start_poll(server, f"{path}?wait=30", tag)
        until(lambda: server.feed.watched, what="the poll to be held")
        assert not held[1]
        server.clock.tick(1)
        server.report("x", 3, 5)
        response = self.result(*held)
        assert response.status_code == 200
        assert response.headers["ETag"] != tag
        until(lambda: not server.feed.watched, what="the subscription to end")

    def test_poll_is_held_until_the_first_report(self, server: MountedApp) -> None:
        """Without a report, the first report ends the wait."""
        server.publish("x")
        server.begin("x")
        held = self.start_poll(server, f"{PROGRESS}?wait=30")
        until(lambda: server.feed.watched, what="the poll to be held")
        server.report("x", 1, 5)
        assert self.result(*held).json["current"] == 1

    def test_terminal_state_ends_the_wait(self, server: MountedApp) -> None:
        """Nothing follows a terminal state: unchanged progress is a 304 without Retry-After."""
        running(server)
        tag = server.client.get(PROGRESS).headers["ETag"]
        held = self.start_poll(server, f"{PROGRESS}?wait=30", tag)
        until(lambda: server.feed.watched, what="the poll to be held")
        server.end("x")
        response = self.result(*held)
        assert response.status_code == 304
        assert "Retry-After" not in response.headers

    def test_timeout_returns_the_current_state(self, server: MountedApp) -> None:
        """After the time limit the response is the same as without waiting."""
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

    def test_wait_is_limited_to_max_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A wait of an hour is limited to 30 seconds."""
        with mounted_app() as server:
            running(server)
            timeouts: list[float] = []

            def wait(execution_id: str, accept: object, timeout: float) -> object:
                timeouts.append(timeout)
                return server.headway.get_execution(execution_id)

            monkeypatch.setattr(server.headway.hub, "wait", wait)
            for seconds in ("3600", "30", "20"):
                server.client.get(PROGRESS, query_string={"wait": seconds})
            assert timeouts == [30.0, 30.0, 20.0]

    def test_unknown_execution_and_outage_end_the_wait(self, server: MountedApp) -> None:
        """An unknown id is a 404 at once; an unavailable backend is a 503 without a wait."""
        assert_problem(server.client.get(PROGRESS, query_string={"wait": "30"}), 404)
        server.store.away = True
        assert_problem(server.client.get(PROGRESS, query_string={"wait": "30"}), 503)

    def test_viewer_limit_is_429_with_retry_after(self) -> None:
        """Held polls and event streams beyond the viewer limit are a 429 with Retry-After."""
        with mounted_app(max_viewers=1) as server:
            running(server)
            tag = server.client.get(PROGRESS).headers["ETag"]
            held = self.start_poll(server, f"{PROGRESS}?wait=30", tag)
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
            self.result(*held)


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
    def test_accept_header_selects_stream_or_json(
        self, server: MountedApp, path: str, accept: str | None, streams: bool
    ) -> None:
        """A client that prefers events gets a stream; one that accepts anything gets JSON."""
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

    def test_tensorlake_paths_can_be_disabled(self) -> None:
        """An app that has these paths itself can disable Headway's."""
        with mounted_app(tensorlake=False) as server:
            running(server)
            assert server.client.get(TENSORLAKE).status_code == 404


def test_body_is_strict_json(server: MountedApp) -> None:
    """Whatever a task returns, the body is strict JSON: NaN is null, the text is UTF-8."""
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
