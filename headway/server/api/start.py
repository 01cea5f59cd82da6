"""Starting work over HTTP: ``POST /executions``, for the tasks that were named and no others."""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celery import Celery
from flask import Blueprint, Response, request, url_for
from kombu.connection import Connection
from kombu.exceptions import EncodeError, LimitExceeded, OperationalError
from kombu.pools import producers

from headway.cancellation import RETRY_POLICY
from headway.core.registry import Registration, Snapshot, StateWrite
from headway.core.states import resolve
from headway.errors import (
    ExecutionExpired,
    ExecutionNotFound,
    InvalidRequest,
    NotAllowed,
    Unavailable,
)
from headway.models import Status
from headway.server.api.executions import uncached
from headway.server.auth import Action
from headway.server.http_helpers import read_body
from headway.stores.pagination import indexed_status

if TYPE_CHECKING:
    from headway.server.extension import Headway

log = logging.getLogger(__name__)

#: A call that claimed its Idempotency-Key and hasn't published is taken for dead after so many
#: seconds, and so many times the broker's timeout. By far longer than a live one takes, and than
#: the clocks of web servers differ: a repeat that came sooner would publish beside it.
TAKEOVER, ANSWERS = 60.0, 10

#: What is noted of a claim whose message is out.
SENT = "sent"


@dataclass(frozen=True, slots=True)
class StartRequest:
    """What a caller wants started."""

    task: str
    args: list[Any]
    kwargs: dict[str, Any]
    #: Of all the three: the same order has the same digest, however its JSON was written.
    digest: str


@dataclass(frozen=True, slots=True)
class Claim:
    """What an Idempotency-Key is bound to in the store."""

    execution_id: str
    digest: str
    #: `SENT`, or when it was made, in seconds since the epoch.
    mark: str
    #: Of this call alone, so that no two calls can take the same thing for their own.
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __str__(self) -> str:
        return f"{self.execution_id} {self.digest} {self.mark} {self.token}"

    @classmethod
    def read(cls, bound: str) -> Claim:
        """The claim that was written so."""
        return cls(*bound.split(" "))


def register(blueprint: Blueprint, headway: Headway) -> None:
    """Add the route."""
    starter = TaskStarter(headway)

    @blueprint.post("/executions")
    def start() -> Response:
        # Who may is asked first: the body of a stranger isn't even read.
        who = headway.policy.authorize(request, Action.START)
        order = read_order(headway.settings.max_body)
        starter.check(order)
        key = request.headers.get("Idempotency-Key")
        if key is None:
            execution_id, status = starter.publish(order, str(uuid.uuid4())), Status.PENDING
        else:
            headway.checked_id(key, "Idempotency-Key")
            if who.name is None:
                # Those whom the app's own rule lets in without a token would share keys, and be
                # handed each other's executions.
                raise InvalidRequest(
                    "An Idempotency-Key needs a caller who is known: send a token with it, or leave it out"
                )
            execution_id, status = starter.publish_once(order, key, who.name)
        where = url_for(f"{blueprint.name}.execution", execution_id=execution_id)
        response = uncached(
            {"execution_id": execution_id, "status": status.value, "status_url": where}, 202
        )
        response.headers["Location"] = where
        return response


class TaskStarter:
    """Publishes what was ordered, once, within a bounded time."""

    def __init__(self, headway: Headway) -> None:
        self._headway = headway
        self._celery: Celery = headway.celery

    def check(self, order: StartRequest) -> None:
        """Raise ``NotAllowed`` for a task that isn't on the list, ``InvalidRequest`` for arguments
        that it doesn't take.
        """
        startable = self._headway.settings.startable
        if order.task not in startable:
            raise NotAllowed(
                f"Task {order.task[:200]!r} is not one that may be started over HTTP"
                if startable
                else "Starting tasks over HTTP is off; name those that may be started in startable= (or HEADWAY_STARTABLE)"
            )
        task = self._celery.tasks.get(order.task)
        if task is None or not task.typing:
            return  # The worker alone knows it, or takes anything: what doesn't fit fails there.
        try:
            task.__header__(*order.args, **order.kwargs)
        except TypeError as error:
            raise InvalidRequest(
                f"Task {order.task} doesn't take these arguments: {error}"
            ) from None

    def publish(self, order: StartRequest, execution_id: str) -> str:
        """Publish; raises ``Unavailable`` where the registry or the broker can't be reached.

        The registry comes first, and not by the signal that `headway.install` hooks: that one
        forgives a registry that is away, but an answered id must be known to the next GET.
        """
        headway = self._headway
        headway.store.register(
            [Registration(execution_id, order.task, headway.clock(), root_id=execution_id)]
        )
        try:
            self._send(order, execution_id)
        except Exception as error:
            self._withdraw(execution_id)
            if isinstance(error, EncodeError):
                raise InvalidRequest(f"Task {order.task} can't be sent these arguments") from error
            if isinstance(error, self._away):
                log.warning("Task %s could not be published: %s", order.task, type(error).__name__)
                raise Unavailable(
                    "The message broker can't be reached; nothing was started"
                ) from error
            raise
        headway.metrics.started.labels(order.task).inc()
        return execution_id

    def publish_once(self, order: StartRequest, key: str, scope: str) -> tuple[str, Status]:
        """Publish, or find what was published under the same key by the same caller before.

        Of calls at once the store lets one claim the key, and the others find its id. After a try
        that failed the next one begins anew. What a call left behind that died between claim and
        publishing, a later one takes over, under the same id: should the first message have got out
        after all, it is one execution still, and delivered twice. Raises ``NotAllowed`` where the
        caller may not read what was found.
        """
        headway, name = (
            self._headway,
            "start:" + hashlib.sha256(f"{scope}\0{key}".encode()).hexdigest(),
        )
        now, patience = (
            headway.clock().timestamp(),
            TAKEOVER + ANSWERS * headway.settings.broker_timeout,
        )
        fresh, found = Claim(str(uuid.uuid4()), order.digest, str(now)), None
        mine = fresh
        while (bound := self._claim(name, mine, instead_of=found)) != str(mine):
            found = Claim.read(bound)
            if found.digest != order.digest:
                raise InvalidRequest(
                    "This Idempotency-Key was used for another task or other arguments before"
                )
            snapshot = headway.store.read([found.execution_id])[0]
            if found.mark != SENT and _withdrawn(snapshot):
                mine = fresh
            elif (
                found.mark != SENT
                and not _has_begun(snapshot)
                and now - float(found.mark) > patience
            ):
                mine = replace(fresh, execution_id=found.execution_id)
            else:
                headway.policy.authorize(request, Action.READ, found.execution_id)
                return found.execution_id, self._status(snapshot)
        self.publish(order, mine.execution_id)
        try:
            self._claim(name, replace(mine, mark=SENT), instead_of=mine)
        except (
            Unavailable
        ):  # it is out, and that is the answer: a repeat looks at the execution itself
            log.warning(
                "Execution %s was published, and the registry went away before that was noted",
                mine.execution_id,
            )
        return mine.execution_id, Status.PENDING

    def _claim(self, name: str, claim: Claim, *, instead_of: Claim | None) -> str:
        lifetime = self._headway.settings.idempotency_lifetime
        old = None if instead_of is None else str(instead_of)
        return self._headway.store.claim_key(name, str(claim), lifetime, instead_of=old)

    def _status(self, snapshot: Snapshot) -> Status:
        try:
            return resolve(snapshot, self._headway.clock()).status
        except ExecutionNotFound:
            return Status.PENDING  # claimed by a call that is just about to register it
        except ExecutionExpired:
            assert snapshot.record is not None
            return indexed_status(
                snapshot.record
            )  # what was started is known, though its result isn't any more

    @cached_property
    def _connection(self) -> Connection:
        """A connection of our own settings: Celery's would wait for a broker that hangs for ever.
        Opened by the pool, on use.
        """
        seconds = self._headway.settings.broker_timeout
        # Redis' names and AMQP's; each transport passes over the other's.
        limits = {
            "socket_timeout": seconds,
            "socket_connect_timeout": seconds,
            "read_timeout": seconds,
            "write_timeout": seconds,
        }
        options = {**limits, **RETRY_POLICY}
        made: Connection = self._celery.connection_for_write(
            connect_timeout=seconds, transport_options=options
        )
        return made

    @property
    def _away(self) -> tuple[type[Exception], ...]:
        """What kombu and the transport under it raise where a broker is away, or refuses us."""
        connection = self._connection
        return (
            OperationalError,
            LimitExceeded,
            OSError,
            *connection.connection_errors,
            *connection.channel_errors,
        )

    def _send(self, order: StartRequest, execution_id: str) -> None:
        with producers[self._connection].acquire(
            block=True, timeout=self._headway.settings.broker_timeout
        ) as producer:
            task = self._celery.tasks.get(order.task)
            how = {
                "task_id": execution_id,
                "producer": producer,
                "retry": True,
                "retry_policy": RETRY_POLICY,
                # Celery would subscribe this process to the result, for a `get` that nobody makes
                # here (fact 51), over a connection with the backend's own patience: 19 s and a
                # RuntimeError where it is away. Workers heed the header.
                "ignore_result": True,
                "headers": {"ignore_result": None if task is None else task.ignore_result},
            }
            if task is not None:
                task.apply_async(order.args, order.kwargs, **how)
            else:
                self._celery.send_task(order.task, order.args, order.kwargs, **how)

    def _withdraw(self, execution_id: str) -> None:
        """Say that nothing will come of a registered id. Should the message have got through after
        all, its run reopens it.
        """
        try:
            self._headway.store.write(StateWrite(execution_id, "REJECTED", self._headway.clock()))
        except Unavailable:
            log.warning(
                "Execution %s was not published, and stays registered: the result backend is away too",
                execution_id,
            )


def _withdrawn(snapshot: Snapshot) -> bool:
    record = snapshot.record
    return record is not None and record.state == "REJECTED" and record.attempt == 0


def _has_begun(snapshot: Snapshot) -> bool:
    """Whether more is known than that somebody was about to publish it."""
    record = snapshot.record
    return snapshot.meta is not None or (
        record is not None and (record.attempt > 0 or record.state is not None)
    )


def read_order(max_body: int) -> StartRequest:
    """The body, checked. Raises ``InvalidRequest``, or werkzeug's 411, 413 and 415."""
    return _order(read_body(max_body))


def _order(body: Mapping[str, Any]) -> StartRequest:
    unknown = sorted(set(body) - {"task", "args", "kwargs"})
    if unknown:
        raise InvalidRequest(
            f"The body may hold task, args and kwargs, and not {', '.join(map(repr, unknown))[:200]}"
        )
    task, args, kwargs = body.get("task"), body.get("args", []), body.get("kwargs", {})
    if not isinstance(task, str) or not task:
        raise InvalidRequest("'task' must be the name of a task")
    if not isinstance(args, list):
        raise InvalidRequest("'args' must be a list")
    if not isinstance(kwargs, dict):
        raise InvalidRequest("'kwargs' must be an object")
    canonical = json.dumps([task, args, kwargs], sort_keys=True).encode()
    return StartRequest(task, args, kwargs, hashlib.sha256(canonical).hexdigest())
