"""The fanout under gevent, in its own process: patching cannot be undone."""

from __future__ import annotations

import sys

from tests.support.processes import Process

PROGRAM = """
from gevent import monkey

monkey.patch_all()
import socket
import threading

from headway.server.counters import Counts
from headway.server.streams.changes import Change
from headway.server.streams.fanout import BURST, Fanout


class Viewer:
    def deliver(self, change):
        pass


ours, theirs = socket.socketpair()
answered = []


def reply():
    while data := theirs.recv(1):
        answered.append(data)
        theirs.send(data)


def ask():
    for _ in range(1000):
        ours.send(b"?")
        ours.recv(1)


for work in (reply, ask):
    threading.Thread(target=work, daemon=True).start()
with Fanout(Counts()) as fanout:
    fanout.deliver([Viewer()], Change("x", None, ()))
    assert not answered, "no other greenlet has run yet"
    fanout.deliver([Viewer() for _ in range(100 * BURST)], Change("x", None, ()))
print("answered", len(answered), flush=True)
"""


def test_network_waiters_run_between_bursts() -> None:
    """While thousands of viewers get a change, a server and its client run about once a burst."""
    with Process([sys.executable, "-c", PROGRAM], name="fanout") as process:
        answered = int(process.wait_log(r"^answered (\d+)$")[1])
        assert process.wait() == 0
    assert 25 <= answered <= 100
