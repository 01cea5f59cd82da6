"""A RabbitMQ node for tests, with its own ports, data and Erlang port mapper (epmd)."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from pathlib import Path

from tests.support.processes import Process
from tests.support.valkey import free_port

#: Debian's plain script. The one on the PATH switches to the system's user and data folder.
DEBIAN_SCRIPT = "/usr/lib/rabbitmq/bin/rabbitmq-server"


def server_script() -> str | None:
    """The script that starts a node in the foreground, or None if RabbitMQ isn't installed."""
    if shutil.which("epmd") is None:
        return None
    return DEBIAN_SCRIPT if os.access(DEBIAN_SCRIPT, os.X_OK) else shutil.which("rabbitmq-server")


class RabbitMQ(Process):
    """A broker on 127.0.0.1 with the user guest."""

    def __init__(self) -> None:
        script = server_script()
        assert script is not None, "rabbitmq-server isn't installed"
        self.port = free_port()
        self._home = Path(tempfile.mkdtemp(prefix="headway-rabbit-"))
        mapper_port = free_port()
        env = {
            "HOME": str(self._home),  # the folder of the Erlang cookie
            "ERL_EPMD_PORT": str(mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"headway{uuid.uuid4().hex[:8]}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_MNESIA_BASE": str(self._home / "data"),
            "RABBITMQ_LOG_BASE": str(self._home / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._home / "enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": str(self._home / "no-such-file"),
            "RABBITMQ_CONFIG_FILE": str(self._home / "rabbitmq"),
        }
        # Without a running port mapper the node would start one, as a daemon that outlives it.
        self._mapper = Process(
            ["epmd", "-port", str(mapper_port), "-address", "127.0.0.1"], env=env, name="epmd"
        )
        super().__init__([script], env=env, name="rabbitmq")

    @property
    def url(self) -> str:
        """The address for Celery."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def start(self) -> RabbitMQ:
        """Start the port mapper and the node."""
        self._mapper.start()
        return super().start()

    def wait_ready(self) -> None:
        """It is ready when it logs that: its listener is open then."""
        self.wait_log(r"Server startup complete|completed with \d+ plugins", within=180)

    def keep(self) -> RabbitMQ:
        """Let both outlive the current test."""
        self._mapper.keep()
        return super().keep()

    def close(self) -> None:
        """Stop both and delete the node's data."""
        super().close()
        self._mapper.close()
        shutil.rmtree(self._home, ignore_errors=True)
