"""Deployments of Redis: a real worker's reports reach a viewer with the backend's own settings."""

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
from tests.support.inprocess_server import InprocessWeb
from tests.support.processes import Worker
from tests.support.stores import acl_rules
from tests.support.timing import RESPONSE_TIMEOUT
from tests.support.tls import TlsProxy, certificate
from tests.support.transports import SingleSocket
from tests.support.valkey import Sentinel, ValkeyServer
from tests.support.wait import until


@dataclass
class Deployment:
    """A result backend: its address and settings."""

    backend: str
    conf: Mapping[str, Any] = field(default_factory=dict)
    #: Makes the typical fault of this deployment. Returns when the servers are available again.
    fault: Callable[[], None] = lambda: None


def tls(stack: ExitStack, folder: Path) -> Deployment:
    """TLS with a verified certificate, a user with a password and the least rights, database 3."""
    server = stack.enter_context(ValkeyServer())
    server.command("ACL", "SETUSER", "headway", "on", ">se/cret", *acl_rules())
    # The embedded server has no TLS.
    proxy = stack.enter_context(TlsProxy(server.url, certificate(folder)))
    query = f"ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={folder / 'cert'}"
    return Deployment(
        f"{proxy.url.replace('https://', 'rediss://headway:se%2Fcret@')}/3?{query}",
        fault=proxy.drop_connections,
    )


def unix(stack: ExitStack, folder: Path) -> Deployment:
    """A UNIX socket, a key prefix, compressed results, database 5."""
    path = folder / "valkey.sock"
    server = stack.enter_context(ValkeyServer(args=["--unixsocket", str(path)]))

    def fault() -> None:
        # One transaction: else a client that reconnects in between is killed twice.
        with server.client() as client, client.pipeline(transaction=True) as transaction:
            for kind in ("PUBSUB", "NORMAL"):
                transaction.execute_command("CLIENT", "KILL", "TYPE", kind)
            transaction.execute()

    conf = {
        "result_backend_transport_options": {"global_keyprefix": "shop:"},
        "result_compression": "gzip",
    }
    return Deployment(f"redis+socket://{path}?virtual_host=5", conf, fault)


def sentinel(stack: ExitStack, folder: Path) -> Deployment:
    """A sentinel, a master that crashes, and a replica that becomes the master. Database 2."""
    master = stack.enter_context(ValkeyServer(args=["--repl-diskless-sync-delay", "0"]))
    replica = stack.enter_context(ValkeyServer(args=["--replicaof", "127.0.0.1", str(master.port)]))
    watcher = stack.enter_context(Sentinel(master))
    until(
        lambda: watcher.command("SENTINEL", "REPLICAS", "mymaster"),
        what="the sentinel to know the replica",
    )
    until(
        lambda: replica.command("INFO", "replication")["master_link_status"] == "up",
        what="the replica to be in sync",
    )

    def fault() -> None:
        master.crash()
        watcher.command("SENTINEL", "SET", "mymaster", "down-after-milliseconds", "500")
        until(lambda: watcher.master() == replica.port, what="the replica to be the master")

    conf = {"result_backend_transport_options": {"master_name": "mymaster"}}
    return Deployment(f"sentinel://127.0.0.1:{watcher.port}/2", conf, fault)


@contextmanager
def web_of(app: Celery) -> Iterator[InprocessWeb]:
    """A web process over this app's results."""
    store = store_for(app)
    made = InprocessWeb(app, store, feed_for(app, store))
    try:
        yield made
    finally:
        made.close()
        store.close()


@pytest.mark.parametrize("make", [tls, unix, sentinel])
def test_viewer_receives_reports_before_and_after_a_fault(
    redis_url: str, tmp_path: Path, make: Callable[[ExitStack, Path], Deployment]
) -> None:
    """A viewer receives the start, each report and the end, and the worker sends heartbeats.

    In the middle all connections break, or the server crashes: the viewer receives one error and
    stays connected.
    """
    with ExitStack() as stack:
        deployment = make(stack, tmp_path)
        env = {
            "PUPPET_URL": redis_url,
            "PUPPET_BACKEND": deployment.backend,
            "PUPPET_CONF": json.dumps(dict(deployment.conf)),
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
        app = puppet.make_app(redis_url, deployment.backend, **deployment.conf)
        web = stack.enter_context(web_of(app))
        broker = stack.enter_context(redis.Redis.from_url(redis_url))
        task = app.tasks["puppet.play"]
        execution_id = task.apply_async(task_id="played").id

        def command(word: str) -> None:
            broker.rpush(f"puppet:{execution_id}", word)

        # The connection of the feed has to exist before the fault can break it.
        until(lambda: web.subscribe_feed(execution_id), what="the feed to subscribe")
        viewer = SingleSocket(web.url, execution_id)
        stack.callback(viewer.close)
        viewer.wait_for("running")
        command("step")
        viewer.wait_for("running", "running", 1)
        until(lambda: web.headway.store.read([execution_id])[0].alive, what="a heartbeat")
        deployment.fault()
        viewer.wait_for_outage()
        assert viewer.outages == 1
        command("step")
        viewer.wait_for("running", "running", 2)
        command("step")
        viewer.wait_for("running", "running", 3)
        command("end")
        assert viewer.wait_for_end() == "over"
        assert viewer.received[-1]["outputs"] == {"steps": 3}
        assert viewer.outages == 1
        assert app.AsyncResult(execution_id).get(timeout=RESPONSE_TIMEOUT) == {"steps": 3}
        assert not re.search(r"Traceback|refused", worker.log()), worker.log()
        app.backend.client.close()
