"""The service of this repository, as its Procfile runs it: a Valkey, a worker of ``app``, gunicorn
with gevent over ``web``.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import requests

from tests.support.processes import WebServer, Worker
from tests.support.valkey import ValkeyServer


class Service:
    """The running service. A context manager."""

    def __init__(self, *, keep: bool = False) -> None:
        self._keep = keep
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with (
            ExitStack() as stack
        ):  # what has started is ended again where the next one doesn't start
            #: A server of the service's own: a test that stops the session's doesn't stop this.
            self.valkey = stack.enter_context(ValkeyServer())
            #: Where uploads are kept and given paths must lie.
            self.data = stack.enter_context(tempfile.TemporaryDirectory(prefix="headway-data-"))
            #: What a process needs in its environment to belong to this service.
            self.env = {
                "CELERY_BROKER_URL": self.valkey.url,
                "CELERY_RESULT_BACKEND": self.valkey.url,
                "HEADWAY_DATA": self.data,
            }
            self.worker = stack.enter_context(Worker("app", env=self.env))
            self.web = stack.enter_context(WebServer("gevent", env=self.env))
            if self._keep:
                for process in (self.valkey, self.worker, self.web):
                    process.keep()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def url(self) -> str:
        """The address of the web server, without a slash at the end."""
        return self.web.url

    def start(self, task: str, **kwargs: Any) -> str:
        """Start one of the service's tasks over HTTP and return the execution's id."""
        answer = requests.post(
            f"{self.url}/api/v1/executions", json={"task": task, "kwargs": kwargs}, timeout=60
        )
        assert answer.status_code == 202, (answer.status_code, answer.text)
        return str(answer.json()["execution_id"])

    def execution(self, execution_id: str) -> dict[str, Any]:
        """What REST says of an execution."""
        answer = requests.get(f"{self.url}/api/v1/executions/{execution_id}", timeout=60)
        assert answer.status_code == 200, (answer.status_code, answer.text)
        body: dict[str, Any] = answer.json()
        return body
