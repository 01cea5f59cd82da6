"""The feed for Redis and Valkey: the backend publishes every stored state on a channel named as its
key (fact 22).

One thread owns one connection and everything that is sent or read on it (web fact 15). Other
threads change what is *wanted* and wake it; it reconciles what is *subscribed*. It speaks through a
bare connection and not through redis-py's ``PubSub``, because that one reconnects without a word
(web fact 16), and a gap that nobody hears of is a lost change.
"""

from __future__ import annotations

import logging
import random
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from headway.errors import Unavailable
from headway.feeds.base import Feed, Listener, SafeListener

log = logging.getLogger(__name__)

#: Payloads above this many bytes aren't decoded: reports are small, and an end has to be read from
#: the store anyway (fact 22: whole results of 5 MB were seen).
DECODE_LIMIT = 64 * 1024
#: Channels in one SUBSCRIBE.
BATCH = 500
#: Messages that are told before the thread looks again at what is wanted.
BURST = 200
#: Seconds between two attempts to connect, at most; the first comes at once.
RECONNECT_MAX = 2.0
JOIN_TIMEOUT = 5.0


@dataclass(slots=True)
class _Watch:
    task_id: str
    #: Set when the answer is there: in force (``acked``) or given up.
    answered: threading.Event = field(default_factory=threading.Event)
    acked: bool = False


class RedisFeed(Feed):
    """Redis' own publish, as a feed.

    ``client`` gives the client whose connection settings are used (it isn't shared: the feed opens
    one connection of its own), ``key`` the backend's key of a task, ``decode`` a stored record as
    plain data. ``timeout`` bounds `watch`; a server that says nothing for ``ping_interval`` seconds
    is asked whether it lives, and has ``pong_within`` seconds to answer (web fact 18).
    """

    def __init__(
        self,
        client: Callable[[], Redis],
        key: Callable[[str], bytes],
        decode: Callable[[bytes], Mapping[str, Any]],
        *,
        timeout: float = 2.0,
        ping_interval: float = 5.0,
        pong_within: float = 2.0,
    ) -> None:
        self._client = client
        self._key = key
        self._decode = decode
        self._timeout = timeout
        self._ping_interval = ping_interval
        self._pong_within = pong_within
        self._lock = threading.Lock()
        self._listener: SafeListener | None = None
        self._wanted: dict[bytes, _Watch] = {}
        #: Whether ``_wanted`` was changed since the feed's thread looked: it mostly wasn't, when a
        #: message comes.
        self._woken = False
        self._cut = False
        self._connected = False
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._waker: socket.socket | None = None

    def listen(self, listener: Listener) -> None:
        self._listener = SafeListener(listener)

    def watch(self, task_id: str) -> None:
        channel = self._key(task_id)
        with self._lock:
            watch = self._wanted.get(channel)
            if watch is None:
                watch = self._wanted[channel] = _Watch(task_id)
            self._start()
            if self._cut:
                raise Unavailable
            if watch.acked:
                return
            self._wake()
        watch.answered.wait(self._timeout)
        if not watch.acked:
            raise Unavailable

    def unwatch(self, task_id: str) -> None:
        with self._lock:
            if self._wanted.pop(self._key(task_id), None) is not None:
                self._wake()

    def ping(self) -> None:
        if self._thread is None:
            try:
                self._client().ping()
            except (RedisError, OSError) as exc:
                raise Unavailable from exc
        elif not self._connected:
            raise Unavailable

    def close(self) -> None:
        with self._lock:
            thread, self._thread = self._thread, None
            self._wanted.clear()
            self._closing.set()
            self._wake()
        if thread is not None:
            thread.join(JOIN_TIMEOUT)

    def _start(self) -> None:
        """Called with the lock held."""
        if self._thread is None:
            self._closing.clear()
            sleeper, self._waker = socket.socketpair()
            sleeper.setblocking(False)
            self._waker.setblocking(False)
            self._thread = threading.Thread(
                target=self._run, args=(sleeper, self._waker), name="headway-feed", daemon=True
            )
            self._thread.start()

    def _wake(self) -> None:
        """Called with the lock held."""
        self._woken = True
        if self._waker is not None:
            try:
                self._waker.send(b"!")
            except BlockingIOError:
                return  # it has been woken many times over and hasn't looked yet

    def _run(self, sleeper: socket.socket, waker: socket.socket) -> None:
        failures = 0
        try:
            while not self._closing.is_set():
                line = _Line(self, sleeper)
                try:
                    line.serve()
                except (RedisError, OSError) as exc:
                    failures = 1 if line.served else failures + 1
                    self._lost(exc)
                finally:
                    self._connected = False
                    line.close()
                self._closing.wait(
                    random.uniform(0.5, 1.0) * min(RECONNECT_MAX, 0.05 * 2**failures)  # noqa: S311 - jitter
                )
        finally:
            with self._lock:
                if self._waker is waker:
                    self._waker = None
            sleeper.close()
            waker.close()

    def _lost(self, why: Exception) -> None:
        self._connected = (
            False  # before anybody is told: who then asks by `ping` gets the same answer
        )
        with self._lock:
            first, self._cut = not self._cut, True
            for watch in self._wanted.values():
                watch.acked = False
                watch.answered.set()  # whoever waits needn't wait for longer
        if first and not self._closing.is_set():
            log.warning("The feed lost its connection and tries again: %s", why)
            assert self._listener is not None
            self._listener.lost()

    def _acked(self, channel: bytes) -> None:
        with self._lock:
            watch = self._wanted.get(channel)
            if watch is not None:
                watch.acked = True
                watch.answered.set()

    def _restored(self) -> None:
        """Tell it, once everything that is wanted is subscribed again."""
        with self._lock:
            if not self._cut or not all(watch.acked for watch in self._wanted.values()):
                return
            self._cut = False
        log.warning("The feed is connected again")
        assert self._listener is not None
        self._listener.restored()

    def _told(self, channel: bytes, payload: bytes) -> None:
        watch = self._wanted.get(channel)
        if watch is None:
            return
        meta: Mapping[str, Any] | None = None
        if len(payload) <= DECODE_LIMIT:
            try:
                meta = self._decode(payload)
            except Exception as exc:  # noqa: BLE001 - whatever a codec raises on bytes that anybody may have published
                log.debug("A message on %r can't be decoded; it is read instead: %s", channel, exc)
        assert self._listener is not None
        self._listener.changed(watch.task_id, meta if isinstance(meta, Mapping) else None)


class _Line:
    """One connection's life, from connect to its end; all of it in the feed's thread."""

    def __init__(self, feed: RedisFeed, sleeper: socket.socket) -> None:
        self._feed = feed
        self._sleeper = sleeper
        self._connection: Any = None
        self._subscribed: set[bytes] = set()
        #: Channel -> SUBSCRIBEs without an answer. One that was dropped and wanted again has two
        #: under way, and only the last answer says that it is in force.
        self._unanswered: dict[bytes, int] = {}
        self._heard = 0.0
        self._asked: float | None = None
        #: Whether it ever worked.
        self.served = False

    def serve(self) -> None:
        """Connect, subscribe, tell. Returns when the feed closes; raises the driver's error when
        the line breaks.
        """
        pool = self._feed._client().connection_pool
        # RESP2 whatever the client speaks: in RESP3 messages are pushes, which redis-py versions
        # read in different ways. What the pool of redis-py 7 and later adds for RESP3's maintenance
        # notifications has to go with it.
        settings = {
            name: value
            for name, value in pool.connection_kwargs.items()
            if not name.startswith(("maint_", "orig_"))
        }
        settings |= {"protocol": 2, "decode_responses": False, "health_check_interval": 0}
        self._connection = pool.connection_class(**settings)
        self._connection.connect()
        self.served = self._feed._connected = True
        self._heard = time.monotonic()
        with selectors.DefaultSelector() as selector:
            # A private name, and the same in every redis-py since 2.0: nothing public lets one wait
            # for two sockets.
            selector.register(self._connection._sock, selectors.EVENT_READ)
            selector.register(self._sleeper, selectors.EVENT_READ)
            self._reconcile()
            while not self._feed._closing.is_set():
                if self._feed._woken:
                    self._reconcile()
                now = time.monotonic()
                if self._drain():
                    # By the time before: an answer that came while this thread was held up has been
                    # read by now.
                    self._check_life(now)
                    self._feed._restored()
                    selector.select(self._patience())

    def close(self) -> None:
        """Give the connection back to the system."""
        if self._connection is not None:
            self._connection.disconnect()

    def _reconcile(self) -> None:
        """Subscribe what is wanted and no more."""
        with self._feed._lock:
            # With the lock that whoever wakes holds: a byte that is left without its flag would let
            # `select` spin.
            self._feed._woken = False
            self._empty_sleeper()
            wanted = set(self._feed._wanted)
            for channel in wanted & self._subscribed - self._unanswered.keys():
                watch = self._feed._wanted[channel]
                if (
                    not watch.acked
                ):  # dropped and wanted again before this thread looked: it never stopped
                    watch.acked = True
                    watch.answered.set()
        self._send("UNSUBSCRIBE", self._subscribed - wanted)
        self._send("SUBSCRIBE", wanted - self._subscribed)
        self._subscribed = wanted

    def _send(self, command: str, channels: Iterable[bytes]) -> None:
        todo = list(channels)
        for start in range(0, len(todo), BATCH):
            part = todo[start : start + BATCH]
            if command == "SUBSCRIBE":
                for channel in part:
                    self._unanswered[channel] = self._unanswered.get(channel, 0) + 1
            self._connection.send_command(command, *part, check_health=False)

    def _drain(self) -> bool:
        """Handle what has come; False where more may be waiting."""
        for _ in range(BURST):
            if not self._connection.can_read(0):
                return True
            self._handle(self._connection.read_response(disable_decoding=True))
            self._heard, self._asked = time.monotonic(), None
        return False

    def _handle(self, message: Any) -> None:
        if not isinstance(message, list) or len(message) < 3:
            return  # the answer to a ping
        kind, channel = message[0], message[1]
        if kind == b"message":
            self._feed._told(channel, message[2])
        elif kind == b"subscribe":
            left = self._unanswered.pop(channel, 1) - 1
            if left:
                self._unanswered[channel] = left
            else:
                self._feed._acked(channel)

    def _patience(self) -> float:
        """Seconds until this thread has something to do by itself."""
        due = (
            self._heard + self._feed._ping_interval
            if self._asked is None
            else self._asked + self._feed._pong_within
        )
        return max(0.0, due - time.monotonic())

    def _check_life(self, now: float) -> None:
        if self._asked is not None:
            if now - self._asked >= self._feed._pong_within:
                raise TimeoutError(
                    "the server does not answer"
                )  # an OSError; nothing else would notice (web fact 18)
        elif now - self._heard >= self._feed._ping_interval:
            self._asked = now
            self._connection.send_command("PING", check_health=False)

    def _empty_sleeper(self) -> None:
        try:
            while self._sleeper.recv(4096):
                pass
        except BlockingIOError:
            return
