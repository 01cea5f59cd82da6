"""Starting tasks over HTTP: ``POST /executions``, for the tasks in ``startable_tasks`` only."""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

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
from headway.server.auth import Action
from headway.server.http_helpers import checked_id, read_body, uncached
from headway.server.services import Services
from headway.stores.pagination import indexed_status

log = logging.getLogger(__name__)

#: A call that claimed its Idempotency-Key without publishing counts as dead after `TAKEOVER`
#: seconds plus `BROKER_TIMEOUTS` times the broker's timeout. That is much longer than a live call
#: takes, and than the clocks of web servers differ: an earlier repeat would publish a second time.
TAKEOVER, BROKER_TIMEOUTS = 60.0, 10

#: The mark of a claim whose message was published.
SENT = "sent"


@dataclass(frozen=True, slots=True)
class StartRequest:
    """A request to start a task."""

    task: str
    args: list[Any]
    kwargs: dict[str, Any]
    #: Digest of the three fields above. It does not depend on how the JSON was written.
    digest: str


@dataclass(frozen=True, slots=True)
class Claim:
    """The value of an Idempotency-Key in the store."""

    execution_id: str
    digest: str
    #: `SENT`, or the time of the claim in seconds since the epoch.
    mark: str
    #: Unique to this call, so that two calls never make equal claims.
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __str__(self) -> str:
        return f"{self.execution_id} {self.digest} {self.mark} {self.token}"

    @classmethod
    def read(cls, bound: str) -> Claim:
        """Parse what `__str__` wrote."""
        return cls(*bound.split(" "))


def register(blueprint: Blueprint, services: Services) -> None:
    """Add the route."""
    starter = TaskStarter(services)

    @blueprint.post("/executions")
    def start() -> Response:
        # Authorize first: the body of an unauthorized request is not read.
        who = services.policy.authorize(request, Action.START)
        start_request = read_start_request(services.settings.max_body)
        starter.check(start_request)
        key = request.headers.get("Idempotency-Key")
        if key is None:
            execution_id, status = starter.publish(start_request, str(uuid.uuid4())), Status.PENDING
        else:
            checked_id(key, "Idempotency-Key")
            if who.name is None:
                # Callers without a token, whom the app's own rule admits, would share their keys
                # and receive each other's executions.
                raise InvalidRequest(
                    "An Idempotency-Key needs an identified caller: send a token, or omit the key"
                )
            execution_id, status = starter.publish_once(start_request, key, who.name)
        where = url_for(f"{blueprint.name}.execution", execution_id=execution_id)
        response = uncached(
            {"execution_id": execution_id, "status": status.value, "status_url": where}, 202
        )
        response.headers["Location"] = where
        return response


class TaskStarter:
    """Publishes a task once, within a bounded time."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._celery: Celery = services.celery

    def check(self, start_request: StartRequest) -> None:
        """Raise ``NotAllowed`` for a task that is not startable, ``InvalidRequest`` for arguments
        that it does not accept.
        """
        startable_tasks = self._services.settings.startable_tasks
        if start_request.task not in startable_tasks:
            raise NotAllowed(
                f"Task {start_request.task[:200]!r} may not be started over HTTP"
                if startable_tasks
                else "Starting tasks over HTTP is off; list the allowed tasks in startable_tasks= "
                "(or HEADWAY_STARTABLE_TASKS)"
            )
        task = self._celery.tasks.get(start_request.task)
        if task is None or not task.typing:
            return  # only the worker can check the arguments
        try:
            task.__header__(*start_request.args, **start_request.kwargs)
        except TypeError as error:
            raise InvalidRequest(
                f"Task {start_request.task} does not accept these arguments: {error}"
            ) from None

    def publish(self, start_request: StartRequest, execution_id: str) -> str:
        """Publish. Raises ``Unavailable`` if the registry or the broker cannot be reached.

        The task is registered here, not by the signal that `headway.install` hooks: that handler
        tolerates an unavailable registry, but the next GET must know an id that was returned.
        """
        services = self._services
        services.store.register(
            [Registration(execution_id, start_request.task, services.clock(), root_id=execution_id)]
        )
        try:
            self._send(start_request, execution_id)
        except Exception as error:
            self._withdraw(execution_id)
            if isinstance(error, EncodeError):
                raise InvalidRequest(
                    f"The arguments of task {start_request.task} cannot be serialized"
                ) from error
            if isinstance(error, self._broker_errors):
                log.warning(
                    "Task %s could not be published: %s", start_request.task, type(error).__name__
                )
                raise Unavailable(
                    "The message broker cannot be reached; no task was started"
                ) from error
            raise
        services.metrics.started.labels(start_request.task).inc()
        return execution_id

    def publish_once(self, start_request: StartRequest, key: str, scope: str) -> tuple[str, Status]:
        """Publish, or return what the same caller published with the same key before.

        Of concurrent calls, one claims the key and the others find its id. After a failed call the
        next one starts over. If a call died between its claim and its publication, a later call
        takes over with the same id: if the first message was published after all, it is still one
        execution, delivered twice. Raises ``NotAllowed`` if the caller may not read the execution.
        """
        services, name = (
            self._services,
            "start:" + hashlib.sha256(f"{scope}\0{key}".encode()).hexdigest(),
        )
        now, takeover_after = (
            services.clock().timestamp(),
            TAKEOVER + BROKER_TIMEOUTS * services.settings.broker_timeout,
        )
        fresh, found = Claim(str(uuid.uuid4()), start_request.digest, str(now)), None
        mine = fresh
        while (bound := self._claim(name, mine, instead_of=found)) != str(mine):
            found = Claim.read(bound)
            if found.digest != start_request.digest:
                raise InvalidRequest(
                    "This Idempotency-Key was already used for another task or other arguments"
                )
            snapshot = services.store.read([found.execution_id])[0]
            if found.mark != SENT and _withdrawn(snapshot):
                mine = fresh
            elif (
                found.mark != SENT
                and not _has_begun(snapshot)
                and now - float(found.mark) > takeover_after
            ):
                mine = replace(fresh, execution_id=found.execution_id)
            else:
                services.policy.authorize(request, Action.READ, found.execution_id)
                return found.execution_id, self._status(snapshot)
        self.publish(start_request, mine.execution_id)
        try:
            self._claim(name, replace(mine, mark=SENT), instead_of=mine)
        except Unavailable:  # it was published; a repeated call checks the execution itself
            log.warning(
                "Execution %s was published, but its Idempotency-Key could not be updated",
                mine.execution_id,
            )
        return mine.execution_id, Status.PENDING

    def _claim(self, name: str, claim: Claim, *, instead_of: Claim | None) -> str:
        lifetime = self._services.settings.idempotency_lifetime
        old = None if instead_of is None else str(instead_of)
        return self._services.store.claim_key(name, str(claim), lifetime, instead_of=old)

    def _status(self, snapshot: Snapshot) -> Status:
        try:
            return resolve(snapshot, self._services.clock()).status
        except ExecutionNotFound:
            return Status.PENDING  # a concurrent call claimed it and is about to register it
        except ExecutionExpired:
            assert snapshot.record is not None
            return indexed_status(snapshot.record)  # the result has expired, the record has not

    @cached_property
    def _connection(self) -> Connection:
        """A connection with its own time limits: Celery's would wait for ever for a hung broker.

        The pool opens it on first use.
        """
        seconds = self._services.settings.broker_timeout
        # The options of Redis and of AMQP; each transport ignores those of the other.
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
    def _broker_errors(self) -> tuple[type[Exception], ...]:
        """What kombu and its transports raise if the broker is unavailable or refuses us."""
        connection = self._connection
        return (
            OperationalError,
            LimitExceeded,
            OSError,
            *connection.connection_errors,
            *connection.channel_errors,
        )

    def _send(self, start_request: StartRequest, execution_id: str) -> None:
        with producers[self._connection].acquire(
            block=True, timeout=self._services.settings.broker_timeout
        ) as producer:
            task = self._celery.tasks.get(start_request.task)
            how = {
                "task_id": execution_id,
                "producer": producer,
                "retry": True,
                "retry_policy": RETRY_POLICY,
                # Without this, Celery subscribes this process to the result, although no code here
                # calls `get`. With the backend away that takes 19 s and raises
                # (celery-facts#publishing-subscribes). Workers obey the header.
                "ignore_result": True,
                "headers": {"ignore_result": None if task is None else task.ignore_result},
            }
            if task is not None:
                task.apply_async(start_request.args, start_request.kwargs, **how)
            else:
                self._celery.send_task(
                    start_request.task, start_request.args, start_request.kwargs, **how
                )

    def _withdraw(self, execution_id: str) -> None:
        """Mark a registered id as rejected.

        If its message was sent after all, the execution reopens when it runs.
        """
        try:
            self._services.store.write(StateWrite(execution_id, "REJECTED", self._services.clock()))
        except Unavailable:
            log.warning(
                "Execution %s was not published but stays registered: "
                "the result backend is unavailable too",
                execution_id,
            )


def _withdrawn(snapshot: Snapshot) -> bool:
    record = snapshot.record
    return record is not None and record.state == "REJECTED" and record.attempt == 0


def _has_begun(snapshot: Snapshot) -> bool:
    """Whether anything happened after the registration."""
    record = snapshot.record
    return snapshot.meta is not None or (
        record is not None and (record.attempt > 0 or record.state is not None)
    )


def read_start_request(max_body: int) -> StartRequest:
    """Read and check the body. Raises ``InvalidRequest``, or Werkzeug's 411, 413 and 415."""
    return _start_request_from(read_body(max_body))


def _start_request_from(body: Mapping[str, Any]) -> StartRequest:
    unknown = sorted(set(body) - {"task", "args", "kwargs"})
    if unknown:
        raise InvalidRequest(
            f"The body may contain task, args and kwargs only, not "
            f"{', '.join(map(repr, unknown))[:200]}"
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
