"""A TLS proxy in front of a plain server, as nginx would be, with its own certificate."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


def certificate(folder: Path) -> Path:
    """A file with a self-signed certificate for 127.0.0.1 and its key. Clients trust this file."""
    made = folder / "server.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=127.0.0.1",
    ]
    names = [
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        str(folder / "key"),
        "-out",
        str(folder / "cert"),
    ]
    subprocess.run([*command, *names], check=True, capture_output=True)
    made.write_text((folder / "cert").read_text() + (folder / "key").read_text())
    return made


class TlsProxy:
    """``with TlsProxy(url, certificate) as proxy: proxy.url``."""

    def __init__(self, url: str, pem: Path) -> None:
        parts = urlsplit(url)
        self._to = (parts.hostname, parts.port)
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(pem)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        #: A client that reconnects during `drop_connections` waits: it is dropped only once.
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """The address."""
        return f"https://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._run(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(10)

    def drop_connections(self) -> None:
        """Break every connection without a close. New ones are accepted."""
        with self._lock:
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def _run(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=work, args=args, name="tls-proxy")
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                try:
                    client = self._context.wrap_socket(plain, server_side=True)
                except OSError:
                    continue  # the client doesn't trust the certificate
                server = socket.create_connection(self._to)
                self._open += [client, server]
            self._run(_forward, client, server)
            self._run(_forward, server, client)


def _forward(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)
