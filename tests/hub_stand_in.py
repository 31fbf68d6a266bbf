"""A small hub on the loopback: lists repositories, serves ranges of files, fails on demand.

It speaks what `mimaface.hub` asks of the real one, over HTTP, from memory. Small `config.json` are
listed with git's hash, all else with a SHA-256, as the real hub does for large files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Literal

COMMIT = "c" * 40

Repositories = dict[str, dict[str, bytes]]


@dataclass(frozen=True)
class Served:
    """A request for a file: its path, the range asked for, and the bytes of the body sent."""

    path: str
    range: str | None
    sent: int


@dataclass
class Hub:
    """What the stand-in holds and how it misbehaves; change it between requests.

    Attributes:
        repositories: contents of the files, by repository and path.
        log: the requests for files.
        drop_after: how many bytes of these files to send before the connection breaks, once.
        breaks_by: closing, as a server that restarts, or a reset, as a network that fails.
        damaged: paths of files to serve with a wrong byte.
        gated: repositories whose files need accepted terms.
        status: what to answer to everything, with a page, if not 200.
        is_going: whether a broken connection is the last thing heard of it.
        is_gone: whether it answers nothing.
    """

    repositories: Repositories
    log: list[Served] = field(default_factory=list)
    drop_after: dict[str, int] = field(default_factory=dict)
    breaks_by: Literal["closing", "reset"] = "closing"
    damaged: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    status: int = HTTPStatus.OK
    is_going: bool = False
    is_gone: bool = False
    endpoint: str = ""


@contextmanager
def stand_in_hub(repositories: Mapping[str, Mapping[str, bytes]]) -> Iterator[Hub]:
    """Serve repositories until the block ends."""
    hub = Hub({name: dict(files) for name, files in repositories.items()})

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, args=(0.01,), name="hub-stand-in", daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def forbidden(folder: Path) -> Iterator[None]:
    """Let nobody, not even the superuser, search a folder until the block ends."""
    user, mode = os.geteuid(), folder.stat().st_mode
    folder.chmod(0)
    try:
        if user == 0:
            os.seteuid(65534)  # "nobody"; the superuser may search any folder
        yield
    finally:
        os.seteuid(user)
        folder.chmod(mode)


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_args: object) -> None:
        """Keep the terminal quiet."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].lstrip("/")
        if self.state.is_gone:
            self.close_connection = True
        elif self.state.status != HTTPStatus.OK:
            self._answer(self.state.status, body=b"<html></html>")
        elif listing := re.fullmatch("api/models/(.+)", path):
            self._list(listing[1])
        elif file := re.fullmatch(f"(.+?)/resolve/{COMMIT}/(.+)", path):
            self._send_file(file[1], file[2])
        else:
            self._answer(HTTPStatus.NOT_FOUND)

    def _list(self, repo: str) -> None:
        files = self.state.repositories.get(repo)
        if files is None:
            self._answer(HTTPStatus.NOT_FOUND, {"X-Error-Code": "RepoNotFound"})
            return
        siblings = [_listed(path, content) for path, content in files.items()]
        body = json.dumps({"id": repo, "sha": COMMIT, "siblings": siblings}).encode()
        self._answer(HTTPStatus.OK, {"Content-Type": "application/json"}, body)

    def _send_file(self, repo: str, path: str) -> None:
        if repo in self.state.gated:
            self._answer(HTTPStatus.FORBIDDEN, {"X-Error-Code": "GatedRepo"})
            return
        content = self.state.repositories[repo][path]
        size = len(content)
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if path in self.state.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        body = content[start:]
        broken = body[: self.state.drop_after.pop(path, size)]
        self.state.log.append(Served(path, asked, len(broken)))
        self.send_response(HTTPStatus.PARTIAL_CONTENT if asked else HTTPStatus.OK)
        self.send_header("Content-Length", str(len(body)))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.end_headers()
        self.wfile.write(broken)
        if len(broken) < len(body):
            self._break()

    def _break(self) -> None:
        self.close_connection = True
        self.state.is_gone = self.state.is_going
        if self.state.breaks_by == "reset":
            # Closed beneath the server, which would say goodbye first; no lingering means a reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())

    def _answer(
        self, status: int, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _listed(path: str, content: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"rfilename": path, "size": len(content)}
    entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if not path.endswith(".json"):
        sha256 = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
    return entry
