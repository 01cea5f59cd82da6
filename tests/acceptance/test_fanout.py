"""The hub's voice under gevent, in a process of its own: patching can't be undone."""

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


class Eye:
    def deliver(self, change):
        pass


ours, theirs = socket.socketpair()
answered = []


def answer():
    while data := theirs.recv(1):
        answered.append(data)
        theirs.send(data)


def ask():
    for _ in range(1000):
        ours.send(b"?")
        ours.recv(1)


for work in (answer, ask):
    threading.Thread(target=work, daemon=True).start()
with Fanout(Counts()) as fanout:
    fanout.deliver([Eye()], Change("x", None, ()))
    assert not answered, "nobody had a turn yet"
    fanout.deliver([Eye() for _ in range(100 * BURST)], Change("x", None, ()))
print("answered", len(answered), flush=True)
"""


def test_who_waits_for_the_network_gets_a_turn() -> None:
    """While thousands are told, a server and its client go on talking: each gets a turn for each
    burst, or nearly.
    """
    with Process([sys.executable, "-c", PROGRAM], name="fanout") as process:
        answered = int(process.wait_log(r"^answered (\d+)$")[1])
        assert process.wait() == 0
    assert 25 <= answered <= 100
