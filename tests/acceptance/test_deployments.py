"""Redis as people set it up: a task's reports reach a viewer over the backend's own settings, from
a real worker.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from headway.backends import feed_for, store_for
from tests.acceptance.apps import puppet
from tests.support.inprocess_server import Web
from tests.support.processes import Worker
from tests.support.stores import acl_rules
from tests.support.tls import TlsProxy, certificate
from tests.support.transports import OneSocket
from tests.support.valkey import Sentinel, ValkeyServer
from tests.support.wait import until


@dataclass
class SetUp:
    """Where results are kept, and how an app is told so."""

    backend: str
    conf: Mapping[str, Any] = field(default_factory=dict)
    #: Makes the fault that this set-up is there for; returns when it is over as far as the servers
    #: go.
    fault: Callable[[], None] = lambda: None


def tls(stack: ExitStack, folder: Path) -> SetUp:
    """TLS with a certificate that is checked, a user with a password and no more rights than are
    needed, another database.
    """
    server = stack.enter_context(ValkeyServer())
    server.command("ACL", "SETUSER", "headway", "on", ">se/cret", *acl_rules())
    # The embedded server speaks none.
    proxy = stack.enter_context(TlsProxy(server.url, certificate(folder)))
    query = f"ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={folder / 'cert'}"
    return SetUp(
        f"{proxy.url.replace('https://', 'rediss://headway:se%2Fcret@')}/3?{query}", fault=proxy.cut
    )


def unix(stack: ExitStack, folder: Path) -> SetUp:
    """A UNIX socket, a key prefix, compressed results, another database."""
    path = folder / "valkey.sock"
    server = stack.enter_context(ValkeyServer(args=["--unixsocket", str(path)]))

    def fault() -> None:
        with (
            server.client() as client,
            client.pipeline(transaction=True) as at_once,
        ):  # who comes back in between would be killed again
            for kind in ("PUBSUB", "NORMAL"):
                at_once.execute_command("CLIENT", "KILL", "TYPE", kind)
            at_once.execute()

    conf = {
        "result_backend_transport_options": {"global_keyprefix": "shop:"},
        "result_compression": "gzip",
    }
    return SetUp(f"redis+socket://{path}?virtual_host=5", conf, fault)


def sentinel(stack: ExitStack, folder: Path) -> SetUp:
    """A master that dies, a replica that takes its place, and a sentinel that says so."""
    master = stack.enter_context(ValkeyServer(args=["--repl-diskless-sync-delay", "0"]))
    replica = stack.enter_context(ValkeyServer(args=["--replicaof", "127.0.0.1", str(master.port)]))
    watcher = stack.enter_context(Sentinel(master))
    until(
        lambda: watcher.command("SENTINEL", "REPLICAS", "mymaster"),
        within=60,
        what="the sentinel to know the replica",
    )
    until(lambda: replica.command("INFO", "replication")["master_link_status"] == "up", within=60)

    def fault() -> None:
        master.crash()
        watcher.command("SENTINEL", "SET", "mymaster", "down-after-milliseconds", "500")
        until(
            lambda: watcher.master() == replica.port, within=60, what="the replica to be the master"
        )

    conf = {"result_backend_transport_options": {"master_name": "mymaster"}}
    return SetUp(f"sentinel://127.0.0.1:{watcher.port}/2", conf, fault)


@contextmanager
def web(app: Celery) -> Iterator[Web]:
    """A web process over this app's results."""
    store = store_for(app)
    made = Web(app, store, feed_for(app, store))
    try:
        yield made
    finally:
        made.close()
        store.close()


@pytest.mark.parametrize("make", [tls, unix, sentinel])
def test_a_report_reaches_a_viewer(
    redis_url: str, tmp_path: Path, make: Callable[[ExitStack, Path], SetUp]
) -> None:
    """From a worker over this set-up to a viewer over it: queued, begun, each report, signs of
    life, and the end.

    In the middle every connection breaks, or the server itself: the viewer is told so once, stays,
    and is told the rest.
    """
    with ExitStack() as stack:
        set_up = make(stack, tmp_path)
        env = {
            "PUPPET_URL": redis_url,
            "PUPPET_BACKEND": set_up.backend,
            "PUPPET_CONF": json.dumps(dict(set_up.conf)),
        }
        worker = stack.enter_context(
            Worker(
                "tests.acceptance.apps.puppet",
                env=env,
                pool="solo",
                concurrency=1,
                queues=["puppet"],
            )
        )
        app = puppet.make_app(redis_url, set_up.backend, **set_up.conf)
        house = stack.enter_context(web(app))
        broker = stack.enter_context(redis.Redis.from_url(redis_url))
        task = app.tasks["puppet.play"]
        execution_id = task.apply_async(task_id="played").id

        until(
            lambda: house.hears(execution_id),
            within=60,
            what="the feed's connection, which is to break",
        )
        viewer = OneSocket(house.url, execution_id)
        stack.callback(viewer.close)
        viewer.sees("running")
        say = lambda word: broker.rpush(f"puppet:{execution_id}", word)  # noqa: E731 - one line
        say("step")
        viewer.sees("running", "running", 1)
        until(
            lambda: house.headway.store.read([execution_id])[0].alive,
            within=60,
            what="a sign of life",
        )
        set_up.fault()
        viewer.is_told_of_an_outage()
        assert viewer.outages == 1
        say("step")
        viewer.sees("running", "running", 2)
        say("step")
        viewer.sees("running", "running", 3)
        say("end")
        assert viewer.ends() == "over"
        assert viewer.told[-1]["outputs"] == {"steps": 3}
        assert viewer.outages == 1
        assert app.AsyncResult(execution_id).get(timeout=60) == {"steps": 3}
        assert not re.search(r"Traceback|refused", worker.log()), worker.log()
        app.backend.client.close()
