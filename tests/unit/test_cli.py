"""The commands, both ways: straight into a store, and through a server."""

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

from headway.cli.backend_source import Direct
from headway.cli.main import COMMANDS, headway
from headway.cli.output import Call
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


class Way:
    """One way to the executions of a `MountedApp`."""

    def __init__(self, server: MountedApp, url: str | None) -> None:
        self.server = server
        self.feed = MemoryFeed(server.store)
        self._url = url

    def run(self, *args: str, **options: Any) -> Result:
        """A command, in this process."""
        if self._url is not None:
            return CliRunner().invoke(headway, ["--url", self._url, *args], **options)
        source = Direct(
            self.server.celery, store=self.server.store, feed=self.feed, clock=self.server.clock
        )
        return CliRunner().invoke(headway, list(args), obj=given(source), **options)

    def watched(self, *ids: str) -> bool:
        """Whether these are being followed just now."""
        return set(ids) == (
            self.feed.watched if self._url is None else self.server.headway.hub.watched
        )

    def meanwhile(self, act: Callable[[], None], *ids: str) -> threading.Thread:
        """Do that when these are being followed."""

        def wait_and_act() -> None:
            until(lambda: self.watched(*ids))
            act()

        thread = threading.Thread(target=wait_and_act)
        thread.start()
        return thread


def given(source: Any) -> Call:
    class Given(Call):
        def source(self) -> Any:
            return source

    return Given()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    long_timeouts(monkeypatch)


@pytest.fixture
def server() -> Iterator[MountedApp]:
    celery = Celery("mounted", broker="memory://", set_as_current=False)
    with mounted_app(celery=celery) as made:
        yield made


@pytest.fixture(params=["direct", "remote"])
def way(request: pytest.FixtureRequest, server: MountedApp) -> Iterator[Way]:
    if request.param == "direct":
        yield Way(server, None)
        return
    with WsgiServer(server.app) as serving:
        yield Way(server, serving.url)


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
    def test_the_status_tells_how_they_ended(
        self, way: Way, ends: list[str | None], code: int
    ) -> None:
        """0 where all completed, 1 where one failed or was cancelled, 2 where one is unknown; the
        others are told too.
        """
        for number, end in enumerate(ends):
            if end is not None:
                run_to(way.server, f"e{number}", end, BOOM if end == "FAILURE" else None)
        result = way.run("watch", *(f"e{number}" for number in range(len(ends))))
        assert result.exit_code == code, result.output
        assert len(result.stdout.splitlines()) == len([end for end in ends if end])
        if "FAILURE" in ends:
            assert "failed  30%" in result.stdout
            assert "ValueError: no rows" in result.stdout
        if None in ends:
            assert f"headway: Execution 'e{ends.index(None)}' not found" in result.stderr

    def test_from_queue_to_end(self, way: Way) -> None:
        """What happens is told as it happens, as the frames of a socket with --json: each once, the
        end last.
        """
        server = way.server
        server.publish("a")

        def work() -> None:
            server.begin("a")
            server.report("a", 1, 2, "half")
            server.end("a", result={"rows": 3})

        worker = way.meanwhile(work, "a")
        result = way.run("watch", "--json", "a")
        worker.join()
        assert result.exit_code == 0, result.output
        frames = objects(result)
        kinds = [frame["type"] for frame in frames]
        # It is followed before it is read for the first time: by then it may run already, or have
        # ended.
        assert kinds[0] == "status"
        begun = ["started"] if frames[0]["status"] == "pending" else []
        assert [kind for kind in kinds if kind not in ("status", "progress")] == [
            *begun,
            "completed",
        ]
        assert kinds[-1] == "completed"
        assert frames[-1]["outputs"] == {"rows": 3}
        assert frames[-1]["progress"]["current"] == 1

    def test_all(self, way: Way) -> None:
        """--all follows what is pending or running, and nothing that has ended."""
        server = way.server
        run_to(server, "old", "FAILURE", BOOM)
        server.publish("queued")
        server.publish("running")
        server.begin("running")

        def work() -> None:
            server.begin("queued")
            server.end("queued")
            server.end("running")

        worker = way.meanwhile(work, "queued", "running")
        result = way.run("watch", "--all")
        worker.join()
        assert result.exit_code == 0, result.output
        assert "old" not in result.stdout
        assert result.stdout.count("succeeded") == 2

    def test_a_workflow(self, way: Way) -> None:
        """--workflow follows all that share a root or a group with the id, and what they publish
        meanwhile; nothing else.
        """
        server = way.server
        server.publish("other", root_id="other")
        server.publish("a", root_id="a")
        for name in ("b", "c"):
            server.publish(name, root_id=name, group_id="g")

        def work() -> None:
            server.publish("after", root_id="c")
            for name in ("b", "c", "after"):
                server.begin(name)
                server.end(name)

        worker = way.meanwhile(work, "b", "c")
        result = way.run("watch", "--workflow", "g")
        worker.join()
        assert result.exit_code == 0, result.output
        assert result.stdout.count("succeeded") == 3
        assert "other" not in result.stdout
        assert way.run("watch", "--workflow", "nobody").exit_code == 2

    def test_nothing_to_follow(self, way: Way) -> None:
        """--all with nothing running is done at once."""
        assert way.run("watch", "--all").exit_code == 0

    @pytest.mark.parametrize("ids", [["gone"], ["gone", "other"]])
    def test_what_is_told_of_one_that_has_gone(self, way: Way, ids: list[str]) -> None:
        """With --json it is the frame that a socket would say: what has expired was there once."""
        for each in ids:
            run_to(way.server, each)
        way.server.clock.tick(86401)
        result = way.run("watch", "--json", *ids)
        assert result.exit_code == 2
        assert {(body["execution_id"], body["code"]) for body in objects(result)} == {
            (each, "expired") for each in ids
        }

    @pytest.mark.parametrize("args", [[], ["--all", "a"], ["--all", "--workflow"]])
    def test_usage(self, way: Way, args: list[str]) -> None:
        """Ids or --all, and not both."""
        result = way.run("watch", *args)
        assert result.exit_code == 2
        assert "Give the ids of executions, or --all." in result.stderr

    @pytest.mark.parametrize("what", ["store", "feed"])
    def test_an_outage_is_told_and_outlasted(
        self, server: MountedApp, monkeypatch: pytest.MonkeyPatch, what: str
    ) -> None:
        """A result backend that goes away and comes back is told once, and the end is there all the
        same.
        """
        monkeypatch.setattr("headway.cli.backend_source.RETRY", 0.01)
        way, told, tries = Way(server, None), [], []
        read = server.store.read
        monkeypatch.setattr(server.store, "read", lambda ids: [tries.append(ids), read(ids)][1])
        server.publish("a")
        server.begin("a")

        def work() -> None:
            if what == "feed":
                way.feed.disconnect()
                until(lambda: told)
                server.end("a")
                way.feed.reconnect()
                return
            server.store.away = True
            way.feed.publish("a", None)
            until(lambda: told)
            before = len(tries)
            until(lambda: len(tries) > before + 2)
            server.store.away = False
            server.end("a")

        worker = way.meanwhile(work, "a")
        updates: list[Any] = []
        for update in Direct(
            server.celery, store=server.store, feed=way.feed, clock=server.clock
        ).follow(["a"]):
            updates.append(update)
            told += [update] if isinstance(update, SourceError) else []
        worker.join()
        assert [trouble.execution_id for trouble in told] == [None]
        assert "can't be reached" in told[0].message
        assert all(one != other for one, other in itertools.pairwise(updates))
        assert updates[-1].status is Status.COMPLETED
        assert not way.feed.watched

    def test_silence_is_not_told(self, server: MountedApp, monkeypatch: pytest.MonkeyPatch) -> None:
        """An execution that says nothing is looked at again and again, and told once."""
        monkeypatch.setattr("headway.cli.backend_source.SWEEP", 0.01)
        way, tries = Way(server, None), []
        read = server.store.read
        monkeypatch.setattr(server.store, "read", lambda ids: [tries.append(ids), read(ids)][1])
        server.publish("a")
        server.begin("a")

        def work() -> None:
            until(lambda: len(tries) > 5)
            server.end("a")

        worker = way.meanwhile(work, "a")
        updates = list(
            Direct(server.celery, store=server.store, feed=way.feed, clock=server.clock).follow(
                ["a"]
            )
        )
        worker.join()
        assert [update.status for update in updates if not isinstance(update, SourceError)] == [
            "running",
            "completed",
        ]

    def test_rest_may_be_closed(self, server: MountedApp) -> None:
        """What a socket tells is shown although REST won't say more of it."""
        server.headway.policy._authorize = lambda _who, action, _id: action is Action.WATCH
        run_to(server, "a")
        with WsgiServer(server.app) as serving:
            result = CliRunner().invoke(headway, ["--url", serving.url, "watch", "a"])
        assert (result.exit_code, result.stdout) == (0, "a  succeeded  30%  three\n")

    def test_more_than_one_read(self, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
        """More executions than one read takes are followed to their ends."""
        monkeypatch.setattr("headway.cli.backend_source.PAGE", 2)
        ids = [f"e{number}" for number in range(5)]
        for each in ids:
            run_to(way.server, each)
        assert way.run("watch", *ids).stdout.count("succeeded") == 5

    def test_ctrl_c(self) -> None:
        """Ctrl-C leaves with 130, and no traceback."""

        class Interrupted:
            def __enter__(self) -> Self:
                return self

            def __exit__(self, *args: object) -> None:
                pass

            def follow(self, ids: Any) -> Any:
                raise KeyboardInterrupt

        result = CliRunner().invoke(headway, ["watch", "a"], obj=given(Interrupted()))
        assert result.exit_code == 130
        assert not result.output.strip()


class TestLs:
    def test_newest_first_and_filtered(self, way: Way) -> None:
        """Executions are listed newest first, one a line; the filters narrow it down."""
        run_to(way.server, "first", "FAILURE", BOOM)
        way.server.clock.tick(60)
        run_to(way.server, "second")
        way.server.clock.tick(60)
        way.server.publish("third", "tasks.other")
        lines = way.run("ls").stdout.splitlines()
        assert [line.split()[0] for line in lines] == ["EXECUTION", "third", "second", "first"]
        assert "failed" in lines[3]
        assert "30%" in lines[3]
        assert "ValueError: no rows" in lines[3]

        def listed(*args: str) -> list[str]:
            return [line["execution_id"] for line in objects(way.run("ls", "--json", *args))]

        assert "outputs" not in objects(way.run("ls", "--json"))[0]
        assert listed() == ["third", "second", "first"]
        assert listed("-n", "2") == ["third", "second"]
        assert listed("-s", "failed", "-s", "pending") == ["third", "first"]
        assert listed("-p", "succeeded") == ["second"]
        assert listed("-t", "tasks.other") == ["third"]
        assert listed("-q", "IRS") == ["first"]
        assert listed("--since", "2026-01-02T03:05:00+00:00") == ["third", "second"]
        assert listed("--until", "2026-01-02T03:05:00Z") == ["first"]

    def test_nothing(self, way: Way) -> None:
        """An empty list says so on stderr, and nothing on stdout."""
        result = way.run("ls", "-s", "running")
        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr == "headway: there is nothing to list\n"

    def test_no_time(self, way: Way) -> None:
        """What is no time is a usage error that says what one is."""
        result = way.run("ls", "--since", "yesterday")
        assert result.exit_code == 2
        assert "90s, 15m, 2h, 3d" in result.stderr


class TestShow:
    def test_all_that_is_known(self, way: Way) -> None:
        """A failed execution's page has its state, error, progress, attributes and times; --json is
        the API's answer.
        """
        server = way.server
        server.publish("a")
        server.begin("a")
        server.report("a", 3, 10, "three", rows="7")
        server.clock.tick(5)
        server.end("a", "FAILURE", BOOM)
        said = dict(line.split(None, 1) for line in way.run("show", "a").stdout.splitlines())
        assert said["state"] == "failed (failed)"
        assert said["error"] == "ValueError: no rows"
        assert said["progress"] == "3 of 10 (30%)"
        assert (said["message"], said[".rows"], said["took"], said["worker"]) == (
            "three",
            "7",
            "0:05",
            "w@host",
        )
        assert (
            json.loads(way.run("show", "--json", "a").stdout)
            == server.client.get("/api/v1/executions/a").json
        )

    def test_history(self, way: Way) -> None:
        """--history adds the reports, each with its attempt; with --json as the API says them."""
        server = way.server
        server.publish("a")
        server.begin("a")
        for number in (1, 2):
            server.report("a", number, 4, f"row {number}")
        lines = way.run("show", "--history", "a").stdout.splitlines()
        assert [line.split(None, 1)[1] for line in lines[-2:]] == [
            "#1    25%  row 1",
            "#1    50%  row 2",
        ]
        body = json.loads(way.run("show", "--history", "--json", "a").stdout)
        assert body["history"] == server.client.get("/api/v1/executions/a/history").json

    def test_unknown(self, way: Way) -> None:
        """An unknown id is one sentence on stderr, and 2."""
        result = way.run("show", "nobody")
        assert (result.exit_code, result.stdout, result.stderr) == (
            2,
            "",
            "headway: Execution 'nobody' not found\n",
        )


class TestCancel:
    def test_it_asks_first(self, way: Way) -> None:
        """Without --yes it asks; what isn't a yes cancels nothing."""
        way.server.publish("a")
        assert way.run("cancel", "a", input="n\n").exit_code == 2
        assert way.server.headway.get_execution("a").phase == "queued"
        result = way.run("cancel", "a", input="y\n")
        assert result.exit_code == 0, result.output
        assert way.server.headway.get_execution("a").phase == "cancelling"

    def test_nobody_answers(self, way: Way) -> None:
        """Where nobody is there to answer, nothing is cancelled, and --yes is what would help."""
        way.server.publish("a")
        result = way.run("cancel", "a", input="")
        assert result.exit_code == 2
        assert "give --yes" in result.stderr
        assert way.server.headway.get_execution("a").phase == "queued"

    def test_each_is_told(self, way: Way) -> None:
        """Each is asked, whatever becomes of the others: 1 where one had ended, 2 where one is
        unknown.
        """
        run_to(way.server, "ended")
        way.server.publish("a")
        result = way.run("cancel", "-y", "ended", "a")
        assert result.exit_code == 1
        assert result.stdout == "a  cancelling\n"
        assert "already completed" in result.stderr
        assert way.run("cancel", "-y", "nobody", "ended").exit_code == 2
        way.server.publish("b")
        assert [body["phase"] for body in objects(way.run("cancel", "-y", "--json", "b"))] == [
            "cancelling"
        ]


class TestEverywhere:
    def test_a_worker_is_not_burdened(self) -> None:
        """The plug-in is imported by every celery command, a worker's too: it brings none of what
        the commands stand on.
        """
        heavy = ("requests", "websockets", "rich", "flask", "gunicorn", "redis", "sqlalchemy")
        code = f"import headway, headway.cli.main, sys; print([name for name in {heavy} if name in sys.modules])"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
        )
        assert done.stdout.strip() == "[]"

    def test_nowhere(self) -> None:
        """Without an app and without a server a command says what to give."""
        result = CliRunner().invoke(headway, ["ls"], env={"HEADWAY_URL": ""})
        assert result.exit_code == 2
        assert result.stderr.startswith("headway: Where?")

    @pytest.mark.parametrize("app", ["no_such_module_anywhere", "json"])
    def test_no_app(self, app: str) -> None:
        """A name in which there is no Celery app is one sentence."""
        result = CliRunner().invoke(headway, ["-A", app, "ls"])
        assert result.exit_code == 2
        assert f"There is no Celery app in {app!r}" in result.stderr

    def test_no_backend(self) -> None:
        """An app whose results nobody can read is told what to set."""
        result = CliRunner().invoke(
            headway, ["ls"], obj=Call(app=Celery("bare", broker="memory://", set_as_current=False))
        )
        assert result.exit_code == 2
        assert "Set result_backend" in result.stderr

    def test_pickle(self, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Results that are read by unpickling aren't read, until the same variable as the server's
        says so.
        """
        monkeypatch.setitem(RedisStore.__init__.__kwdefaults__, "timeout", 60.0)
        app = Celery("pickled", broker="memory://", backend=redis_url, set_as_current=False)
        app.conf.update(result_serializer="pickle", result_accept_content=["pickle"])
        result = CliRunner().invoke(headway, ["show", "a"], obj=Call(app=app))
        assert result.exit_code == 2
        assert "result_serializer is 'pickle'" in result.stderr
        result = CliRunner().invoke(
            headway, ["show", "a"], obj=Call(app=app), env={"HEADWAY_ALLOW_PICKLE": "1"}
        )
        assert result.stderr == "headway: Execution 'a' not found\n"

    @pytest.mark.parametrize("command", ["show", "watch"])
    def test_trouble_rings_no_bell(self, server: MountedApp, command: str) -> None:
        """What is said to be wrong is one line, and moves no cursor, whatever it quotes."""
        assert (
            Way(server, None).run(command, "a\r\x07b").stderr
            == "headway: Execution 'a b' not found\n"
        )

    @pytest.mark.parametrize(
        "args", [["ls"], ["show", "a"], ["cancel", "-y", "a"], ["watch", "--all"]]
    )
    def test_away(self, server: MountedApp, args: list[str]) -> None:
        """A result backend that is away is one sentence, and 2."""
        server.store.away = True
        result = Way(server, None).run(*args)
        assert (result.exit_code, result.stderr) == (2, f"headway: {Unavailable()}\n")

    def test_nobody_there(self) -> None:
        """A server that isn't there is one sentence, and 2."""
        with unreachable_url() as url:
            for args in (["ls"], ["watch", "a"]):
                result = CliRunner().invoke(headway, ["--url", url, *args])
                assert (result.exit_code, result.stderr) == (
                    2,
                    f"headway: {url}/api/v1 can't be reached\n",
                )

    def test_a_message_can_do_no_harm(self, way: Way) -> None:
        """What a task says can't move the cursor, ring the bell or begin a line of its own."""
        server = way.server
        server.publish("a")
        server.begin("a")
        server.report("a", 1, 2, "evil\x1b[2J\x07\nfake  line")
        for args in (["ls"], ["show", "a"]):
            output = way.run(*args, color=True).stdout
            assert "evil [2J fake line" in output
            assert "\x07" not in output
            assert "\x1b[2J" not in output

    def test_no_color(self, server: MountedApp) -> None:
        """There are colours on terminals only, and none with NO_COLOR."""
        run_to(server, "a")
        assert "\x1b[32m" in Way(server, None).run("ls", color=True).stdout
        assert "\x1b" not in Way(server, None).run("ls").stdout
        assert "\x1b" not in Way(server, None).run("ls", color=True, env={"NO_COLOR": "1"}).stdout

    @pytest.mark.parametrize("name", COMMANDS)
    def test_help(self, name: str) -> None:
        """Every command has a help text."""
        result = CliRunner().invoke(headway, [name, "--help"])
        assert result.exit_code == 0
        assert len(result.stdout.splitlines()) > 5
