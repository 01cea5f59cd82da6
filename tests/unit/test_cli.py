"""The commands, on a store directly and through a server."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Self

import pytest
from celery import Celery
from click.testing import CliRunner, Result

from headway.cli.backend_source import BackendSource
from headway.cli.context import CliContext
from headway.cli.main import COMMANDS, headway
from headway.cli.source import SourceError
from headway.errors import Unavailable
from headway.feeds.memory import MemoryFeed
from headway.models import Status
from headway.server.auth import Action
from headway.stores.redis import RedisStore
from tests.support.flask_app import MountedApp, mounted_app
from tests.support.processes import ROOT
from tests.support.wait import until
from tests.support.wsgi_server import WsgiServer, long_timeouts, unreachable_url

BOOM = {"exc_type": "ValueError", "exc_message": ["no rows"], "exc_module": "builtins"}


class Runner:
    """Runs commands on the executions of a `MountedApp`, directly or through its API."""

    def __init__(self, server: MountedApp, url: str | None) -> None:
        self.server = server
        self.feed = MemoryFeed(server.store)
        self._url = url

    def run(self, *args: str, **options: Any) -> Result:
        """Run a command in this process."""
        if self._url is not None:
            return CliRunner().invoke(headway, ["--url", self._url, *args], **options)
        source = BackendSource(
            self.server.celery, store=self.server.store, feed=self.feed, clock=self.server.clock
        )
        return CliRunner().invoke(headway, list(args), obj=context_with(source), **options)

    def watched(self, *ids: str) -> bool:
        """Whether exactly these are followed now."""
        return set(ids) == (
            self.feed.watched if self._url is None else self.server.headway.hub.watched
        )

    def meanwhile(self, act: Callable[[], None], *ids: str) -> threading.Thread:
        """Call ``act`` in a thread as soon as these are followed."""

        def wait_and_act() -> None:
            until(lambda: self.watched(*ids))
            act()

        thread = threading.Thread(target=wait_and_act)
        thread.start()
        return thread


def context_with(source: Any) -> CliContext:
    class FixedSource(CliContext):
        def source(self) -> Any:
            return source

    return FixedSource()


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    long_timeouts(monkeypatch)


@pytest.fixture
def server() -> Iterator[MountedApp]:
    celery = Celery("mounted", broker="memory://", set_as_current=False)
    with mounted_app(celery=celery) as made:
        yield made


@pytest.fixture(params=["backend", "api"])
def runner(request: pytest.FixtureRequest, server: MountedApp) -> Iterator[Runner]:
    if request.param == "backend":
        yield Runner(server, None)
        return
    with WsgiServer(server.app) as serving:
        yield Runner(server, serving.url)


def run_to(
    server: MountedApp, execution_id: str, state: str = "SUCCESS", result: Any = None
) -> None:
    server.publish(execution_id)
    server.begin(execution_id)
    server.report(execution_id, 3, 10, "three")
    server.end(execution_id, state, result)


def objects(result: Result) -> list[Any]:
    return [json.loads(line) for line in result.stdout.splitlines()]


class TestWatch:
    @pytest.mark.parametrize(
        ("ends", "code"),
        [
            (["SUCCESS"], 0),
            (["SUCCESS", "FAILURE"], 1),
            (["REVOKED", "SUCCESS"], 1),
            (["SUCCESS", None], 2),
            ([None, "FAILURE"], 2),
        ],
    )
    def test_exit_status_depends_on_the_outcomes(
        self, runner: Runner, ends: list[str | None], code: int
    ) -> None:
        """0 if all completed, 1 if one failed or was cancelled, 2 if one is unknown; the others
        are followed in any case.
        """
        for number, end in enumerate(ends):
            if end is not None:
                run_to(runner.server, f"e{number}", end, BOOM if end == "FAILURE" else None)
        result = runner.run("watch", *(f"e{number}" for number in range(len(ends))))
        assert result.exit_code == code, result.output
        assert len(result.stdout.splitlines()) == len([end for end in ends if end])
        if "FAILURE" in ends:
            assert "failed  30%" in result.stdout
            assert "ValueError: no rows" in result.stdout
        if None in ends:
            assert f"headway: Execution 'e{ends.index(None)}' not found" in result.stderr

    def test_watch_prints_each_frame_once_and_the_end_last(self, runner: Runner) -> None:
        """With --json, `watch` prints the frames of a WebSocket: each once, the end last."""
        server = runner.server
        server.publish("a")

        def work() -> None:
            server.begin("a")
            server.report("a", 1, 2, "half")
            server.end("a", result={"rows": 3})

        worker = runner.meanwhile(work, "a")
        result = runner.run("watch", "--json", "a")
        worker.join()
        assert result.exit_code == 0, result.output
        frames = objects(result)
        kinds = [frame["type"] for frame in frames]
        # `meanwhile` acts when the execution is followed. The first read comes later, so that the
        # execution may already run, or have ended.
        assert kinds[0] == "status"
        begun = ["started"] if frames[0]["status"] == "pending" else []
        assert [kind for kind in kinds if kind not in ("status", "progress")] == [
            *begun,
            "completed",
        ]
        assert kinds[-1] == "completed"
        assert frames[-1]["outputs"] == {"rows": 3}
        assert frames[-1]["progress"]["current"] == 1

    def test_watch_all_follows_unfinished_executions(self, runner: Runner) -> None:
        """--all follows pending and running executions, and none that have ended."""
        server = runner.server
        run_to(server, "old", "FAILURE", BOOM)
        server.publish("queued")
        server.publish("running")
        server.begin("running")

        def work() -> None:
            server.begin("queued")
            server.end("queued")
            server.end("running")

        worker = runner.meanwhile(work, "queued", "running")
        result = runner.run("watch", "--all")
        worker.join()
        assert result.exit_code == 0, result.output
        assert "old" not in result.stdout
        assert result.stdout.count("succeeded") == 2

    def test_watch_workflow_follows_all_members(self, runner: Runner) -> None:
        """--workflow follows the executions with the same root or group, and what they publish
        later.
        """
        server = runner.server
        server.publish("other", root_id="other")
        server.publish("a", root_id="a")
        for name in ("b", "c"):
            server.publish(name, root_id=name, group_id="g")

        def work() -> None:
            server.publish("after", root_id="c")
            for name in ("b", "c", "after"):
                server.begin(name)
                server.end(name)

        worker = runner.meanwhile(work, "b", "c")
        result = runner.run("watch", "--workflow", "g")
        worker.join()
        assert result.exit_code == 0, result.output
        assert result.stdout.count("succeeded") == 3
        assert "other" not in result.stdout
        assert runner.run("watch", "--workflow", "unknown").exit_code == 2

    def test_watch_all_without_executions_succeeds(self, runner: Runner) -> None:
        """--all without unfinished executions ends at once with 0."""
        assert runner.run("watch", "--all").exit_code == 0

    @pytest.mark.parametrize("ids", [["gone"], ["gone", "other"]])
    def test_expired_execution_is_an_error_frame(self, runner: Runner, ids: list[str]) -> None:
        """With --json, an expired execution prints the ``error`` frame of a WebSocket."""
        for each in ids:
            run_to(runner.server, each)
        runner.server.clock.tick(86401)
        result = runner.run("watch", "--json", *ids)
        assert result.exit_code == 2
        assert {(body["execution_id"], body["code"]) for body in objects(result)} == {
            (each, "expired") for each in ids
        }

    @pytest.mark.parametrize("args", [[], ["--all", "a"], ["--all", "--workflow"]])
    def test_watch_requires_either_ids_or_all(self, runner: Runner, args: list[str]) -> None:
        """`watch` takes ids or --all, not both."""
        result = runner.run("watch", *args)
        assert result.exit_code == 2
        assert "Give the ids of executions, or --all." in result.stderr

    @pytest.mark.parametrize("what", ["store", "feed"])
    def test_outage_is_reported_once_and_the_end_follows(
        self, server: MountedApp, monkeypatch: pytest.MonkeyPatch, what: str
    ) -> None:
        """An outage of the result backend is reported once; the end comes after it."""
        monkeypatch.setattr("headway.cli.backend_source.RETRY_INTERVAL", 0.01)
        runner, errors, tries = Runner(server, None), [], []
        read = server.store.read
        monkeypatch.setattr(server.store, "read", lambda ids: [tries.append(ids), read(ids)][1])
        server.publish("a")
        server.begin("a")

        def work() -> None:
            if what == "feed":
                runner.feed.disconnect()
                until(lambda: errors)
                server.end("a")
                runner.feed.reconnect()
                return
            server.store.away = True
            runner.feed.publish("a", None)
            until(lambda: errors)
            before = len(tries)
            until(lambda: len(tries) > before + 2)
            server.store.away = False
            server.end("a")

        worker = runner.meanwhile(work, "a")
        updates: list[Any] = []
        for update in BackendSource(
            server.celery, store=server.store, feed=runner.feed, clock=server.clock
        ).follow(["a"]):
            updates.append(update)
            errors += [update] if isinstance(update, SourceError) else []
        worker.join()
        assert [error.execution_id for error in errors] == [None]
        assert "can't be reached" in errors[0].message
        assert all(one != other for one, other in itertools.pairwise(updates))
        assert updates[-1].status is Status.COMPLETED
        assert not runner.feed.watched

    def test_unchanged_execution_is_not_repeated(
        self, server: MountedApp, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An unchanged execution is read repeatedly, and yielded once."""
        monkeypatch.setattr("headway.cli.backend_source.SWEEP_INTERVAL", 0.01)
        runner, tries = Runner(server, None), []
        read = server.store.read
        monkeypatch.setattr(server.store, "read", lambda ids: [tries.append(ids), read(ids)][1])
        server.publish("a")
        server.begin("a")

        def work() -> None:
            until(lambda: len(tries) > 5)
            server.end("a")

        worker = runner.meanwhile(work, "a")
        updates = list(
            BackendSource(
                server.celery, store=server.store, feed=runner.feed, clock=server.clock
            ).follow(["a"])
        )
        worker.join()
        assert [update.status for update in updates if not isinstance(update, SourceError)] == [
            "running",
            "completed",
        ]

    def test_watch_works_if_rest_is_not_permitted(self, server: MountedApp) -> None:
        """`watch` shows what the WebSocket sends, also if REST refuses the execution."""
        server.headway.policy._authorize = lambda _who, action, _id: action is Action.WATCH
        run_to(server, "a")
        with WsgiServer(server.app) as serving:
            result = CliRunner().invoke(headway, ["--url", serving.url, "watch", "a"])
        assert (result.exit_code, result.stdout) == (0, "a  succeeded  30%  three\n")

    def test_more_executions_than_one_read_are_followed(
        self, runner: Runner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Executions beyond the size of one read are followed to their ends."""
        monkeypatch.setattr("headway.cli.backend_source.PAGE_SIZE", 2)
        ids = [f"e{number}" for number in range(5)]
        for each in ids:
            run_to(runner.server, each)
        assert runner.run("watch", *ids).stdout.count("succeeded") == 5

    def test_ctrl_c_exits_with_130(self) -> None:
        """Ctrl-C leads to exit status 130, without a traceback."""

        class Interrupted:
            def __enter__(self) -> Self:
                return self

            def __exit__(self, *args: object) -> None:
                pass

            def follow(self, ids: Any) -> Any:
                raise KeyboardInterrupt

        result = CliRunner().invoke(headway, ["watch", "a"], obj=context_with(Interrupted()))
        assert result.exit_code == 130
        assert not result.output.strip()


class TestLs:
    def test_ls_filters_and_sorts_newest_first(self, runner: Runner) -> None:
        """`ls` prints one line per execution, newest first, and applies the filters."""
        run_to(runner.server, "first", "FAILURE", BOOM)
        runner.server.clock.tick(60)
        run_to(runner.server, "second")
        runner.server.clock.tick(60)
        runner.server.publish("third", "tasks.other")
        lines = runner.run("ls").stdout.splitlines()
        assert [line.split()[0] for line in lines] == ["EXECUTION", "third", "second", "first"]
        assert "failed" in lines[3]
        assert "30%" in lines[3]
        assert "ValueError: no rows" in lines[3]

        def listed(*args: str) -> list[str]:
            return [line["execution_id"] for line in objects(runner.run("ls", "--json", *args))]

        assert "outputs" not in objects(runner.run("ls", "--json"))[0]
        assert listed() == ["third", "second", "first"]
        assert listed("-n", "2") == ["third", "second"]
        assert listed("-s", "failed", "-s", "pending") == ["third", "first"]
        assert listed("-p", "succeeded") == ["second"]
        assert listed("-t", "tasks.other") == ["third"]
        assert listed("-q", "IRS") == ["first"]
        assert listed("--since", "2026-01-02T03:05:00+00:00") == ["third", "second"]
        assert listed("--until", "2026-01-02T03:05:00Z") == ["first"]

    def test_empty_listing_prints_to_stderr_only(self, runner: Runner) -> None:
        """An empty list prints a sentence on stderr, and nothing on stdout."""
        result = runner.run("ls", "-s", "running")
        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr == "headway: no executions found\n"

    def test_invalid_time_is_a_usage_error(self, runner: Runner) -> None:
        """An invalid time is a usage error with examples."""
        result = runner.run("ls", "--since", "yesterday")
        assert result.exit_code == 2
        assert "90s, 15m, 2h, 3d" in result.stderr


class TestShow:
    def test_show_prints_all_fields(self, runner: Runner) -> None:
        """`show` prints state, error, progress, attributes and times; --json the API's response."""
        server = runner.server
        server.publish("a")
        server.begin("a")
        server.report("a", 3, 10, "three", rows="7")
        server.clock.tick(5)
        server.end("a", "FAILURE", BOOM)
        shown = dict(line.split(None, 1) for line in runner.run("show", "a").stdout.splitlines())
        assert shown["state"] == "failed (failed)"
        assert shown["error"] == "ValueError: no rows"
        assert shown["progress"] == "3 of 10 (30%)"
        assert (shown["message"], shown[".rows"], shown["took"], shown["worker"]) == (
            "three",
            "7",
            "0:05",
            "w@host",
        )
        assert (
            json.loads(runner.run("show", "--json", "a").stdout)
            == server.client.get("/api/v1/executions/a").json
        )

    def test_show_history_prints_the_reports(self, runner: Runner) -> None:
        """--history prints each report with its attempt; with --json the API's response."""
        server = runner.server
        server.publish("a")
        server.begin("a")
        for number in (1, 2):
            server.report("a", number, 4, f"row {number}")
        lines = runner.run("show", "--history", "a").stdout.splitlines()
        assert [line.split(None, 1)[1] for line in lines[-2:]] == [
            "#1    25%  row 1",
            "#1    50%  row 2",
        ]
        body = json.loads(runner.run("show", "--history", "--json", "a").stdout)
        assert body["history"] == server.client.get("/api/v1/executions/a/history").json

    def test_unknown_id_is_one_sentence(self, runner: Runner) -> None:
        """An unknown id prints one sentence on stderr, with exit status 2."""
        result = runner.run("show", "unknown")
        assert (result.exit_code, result.stdout, result.stderr) == (
            2,
            "",
            "headway: Execution 'unknown' not found\n",
        )


class TestCancel:
    def test_cancel_asks_for_confirmation(self, runner: Runner) -> None:
        """Without --yes, `cancel` asks, and only "y" cancels."""
        runner.server.publish("a")
        assert runner.run("cancel", "a", input="n\n").exit_code == 2
        assert runner.server.headway.get_execution("a").phase == "queued"
        result = runner.run("cancel", "a", input="y\n")
        assert result.exit_code == 0, result.output
        assert runner.server.headway.get_execution("a").phase == "cancelling"

    def test_cancel_without_a_terminal_suggests_yes(self, runner: Runner) -> None:
        """Without input nothing is cancelled, and the message suggests --yes."""
        runner.server.publish("a")
        result = runner.run("cancel", "a", input="")
        assert result.exit_code == 2
        assert "use --yes" in result.stderr
        assert runner.server.headway.get_execution("a").phase == "queued"

    def test_cancel_continues_after_an_error(self, runner: Runner) -> None:
        """`cancel` requests each id: exit status 1 if one had ended, 2 if one is unknown."""
        run_to(runner.server, "ended")
        runner.server.publish("a")
        result = runner.run("cancel", "-y", "ended", "a")
        assert result.exit_code == 1
        assert result.stdout == "a  cancelling\n"
        assert "already completed" in result.stderr
        assert runner.run("cancel", "-y", "unknown", "ended").exit_code == 2
        runner.server.publish("b")
        assert [body["phase"] for body in objects(runner.run("cancel", "-y", "--json", "b"))] == [
            "cancelling"
        ]


class TestAllCommands:
    def test_plugin_imports_no_heavy_packages(self) -> None:
        """Each celery command imports the plug-in, also a worker: it must import no packages that
        only the commands need.
        """
        heavy = ("requests", "websockets", "rich", "flask", "gunicorn", "redis", "sqlalchemy")
        code = (
            "import headway, headway.cli.main, sys; "
            f"print([name for name in {heavy} if name in sys.modules])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
        )
        assert done.stdout.strip() == "[]"

    def test_app_or_server_is_required(self) -> None:
        """Without an app and a server, a command prints which options to use."""
        result = CliRunner().invoke(headway, ["ls"], env={"HEADWAY_URL": ""})
        assert result.exit_code == 2
        assert result.stderr.startswith("headway: No app and no server given.")

    @pytest.mark.parametrize("app", ["no_such_module_anywhere", "json"])
    def test_invalid_app_name_is_one_sentence(self, app: str) -> None:
        """A module without a Celery app leads to one sentence."""
        result = CliRunner().invoke(headway, ["-A", app, "ls"])
        assert result.exit_code == 2
        assert f"There is no Celery app in {app!r}" in result.stderr

    def test_missing_result_backend_is_one_sentence(self) -> None:
        """Without a readable result backend, the message names the setting."""
        result = CliRunner().invoke(
            headway,
            ["ls"],
            obj=CliContext(app=Celery("bare", broker="memory://", set_as_current=False)),
        )
        assert result.exit_code == 2
        assert "Set result_backend" in result.stderr

    def test_pickle_results_need_a_variable(
        self, redis_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Pickled results are refused, unless the variable HEADWAY_ALLOW_PICKLE allows them."""
        monkeypatch.setitem(RedisStore.__init__.__kwdefaults__, "timeout", 60.0)
        app = Celery("pickled", broker="memory://", backend=redis_url, set_as_current=False)
        app.conf.update(result_serializer="pickle", result_accept_content=["pickle"])
        result = CliRunner().invoke(headway, ["show", "a"], obj=CliContext(app=app))
        assert result.exit_code == 2
        assert "result_serializer is 'pickle'" in result.stderr
        result = CliRunner().invoke(
            headway, ["show", "a"], obj=CliContext(app=app), env={"HEADWAY_ALLOW_PICKLE": "1"}
        )
        assert result.stderr == "headway: Execution 'a' not found\n"

    @pytest.mark.parametrize("command", ["show", "watch"])
    def test_errors_contain_no_control_characters(self, server: MountedApp, command: str) -> None:
        """An error that quotes an id is one line without control characters."""
        assert (
            Runner(server, None).run(command, "a\r\x07b").stderr
            == "headway: Execution 'a b' not found\n"
        )

    @pytest.mark.parametrize(
        "args", [["ls"], ["show", "a"], ["cancel", "-y", "a"], ["watch", "--all"]]
    )
    def test_unavailable_backend_is_one_sentence(self, server: MountedApp, args: list[str]) -> None:
        """An outage of the result backend prints one sentence, with exit status 2."""
        server.store.away = True
        result = Runner(server, None).run(*args)
        assert (result.exit_code, result.stderr) == (2, f"headway: {Unavailable()}\n")

    def test_unreachable_server_is_one_sentence(self) -> None:
        """An unreachable server prints one sentence, with exit status 2."""
        with unreachable_url() as url:
            for args in (["ls"], ["watch", "a"]):
                result = CliRunner().invoke(headway, ["--url", url, *args])
                assert (result.exit_code, result.stderr) == (
                    2,
                    f"headway: {url}/api/v1 can't be reached\n",
                )

    def test_messages_are_printed_without_control_characters(self, runner: Runner) -> None:
        """A task's message can't move the cursor, ring the bell or start a new line."""
        server = runner.server
        server.publish("a")
        server.begin("a")
        server.report("a", 1, 2, "evil\x1b[2J\x07\nfake  line")
        for args in (["ls"], ["show", "a"]):
            output = runner.run(*args, color=True).stdout
            assert "evil [2J fake line" in output
            assert "\x07" not in output
            assert "\x1b[2J" not in output

    def test_colours_only_on_terminals_without_no_color(self, server: MountedApp) -> None:
        """Colours appear on terminals only, and not with NO_COLOR."""
        run_to(server, "a")
        assert "\x1b[32m" in Runner(server, None).run("ls", color=True).stdout
        assert "\x1b" not in Runner(server, None).run("ls").stdout
        assert (
            "\x1b" not in Runner(server, None).run("ls", color=True, env={"NO_COLOR": "1"}).stdout
        )

    @pytest.mark.parametrize("name", COMMANDS)
    def test_each_command_has_a_help_text(self, name: str) -> None:
        """Each command has a help text of several lines."""
        result = CliRunner().invoke(headway, [name, "--help"])
        assert result.exit_code == 0
        assert len(result.stdout.splitlines()) > 5
