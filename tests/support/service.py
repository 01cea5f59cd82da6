"""The service of this repository, as in its Procfile: a Valkey, a worker of ``app``, and gunicorn
with gevent over ``web``.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import requests

from tests.support.processes import WebServer, Worker
from tests.support.timing import RESPONSE_TIMEOUT
from tests.support.valkey import ValkeyServer


class Service:
    """The running service. A context manager."""

    def __init__(self, *, keep: bool = False) -> None:
        self._keep = keep
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:  # stops the processes that have started if the next one fails
            #: Not the session's server, which a test may stop.
            self.valkey = stack.enter_context(ValkeyServer())
            #: The folder for uploads; tasks accept only paths in it.
            self.data = stack.enter_context(tempfile.TemporaryDirectory(prefix="headway-data-"))
            #: The environment of a process of this service.
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
        """The address of the web server, without a slash at its end."""
        return self.web.url

    def start(self, task: str, **kwargs: Any) -> str:
        """Start one of the service's tasks over HTTP and return the execution's id."""
        response = requests.post(
            f"{self.url}/api/v1/executions",
            json={"task": task, "kwargs": kwargs},
            timeout=RESPONSE_TIMEOUT,
        )
        assert response.status_code == 202, (response.status_code, response.text)
        return str(response.json()["execution_id"])

    def execution(self, execution_id: str) -> dict[str, Any]:
        """An execution as the REST API returns it."""
        response = requests.get(
            f"{self.url}/api/v1/executions/{execution_id}", timeout=RESPONSE_TIMEOUT
        )
        assert response.status_code == 200, (response.status_code, response.text)
        body: dict[str, Any] = response.json()
        return body
