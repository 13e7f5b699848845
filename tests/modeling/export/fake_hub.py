"""A hub on loopback: the requests of ``huggingface_hub`` for accounts, repositories and commits."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

TOKEN = "hf_" + "t" * 34


class FakeHub:
    """What the hub has.

    Attributes:
        repositories: Name → whether it is private.
        files: Name of a file in a repository → content.
        requests: Method and path of each request.
        commits_refused: Refuse commits, as for a token that can only read.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, bool] = {}
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.commits_refused = False
        self.endpoint = ""

    def answer(self, method: str, path: str, body: bytes, token: str) -> tuple[int, Any]:
        """Status and JSON of a request."""
        self.requests.append(f"{method} {path}")
        if token != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid credentials in Authorization header"}
        if path == "/api/whoami-v2":
            return 200, {"name": "alice", "type": "user", "auth": {}}
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'alice'}/{wanted['name']}"
            self.repositories.setdefault(name, wanted.get("private", False) or wanted.get("visibility") == "private")
            return 200, {"url": f"{self.endpoint}/{name}"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        repository = re.split("/(?:preupload|commit|revision)/", path.removeprefix("/api/models/"))[0]
        if repository not in self.repositories:
            return 404, {"error": "Repository not found"}
        if "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            return 200, {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
        if "/commit/" in path:
            if self.commits_refused:
                return 403, {"error": "This token cannot write"}
            lines = [json.loads(line) for line in body.splitlines()]
            for line in lines:
                if line["key"] == "file":
                    value = line["value"]
                    self.files[f"{repository}/{value['path']}"] = base64.b64decode(value["content"])
            return 200, {"commitUrl": f"{self.endpoint}/{repository}/commit/1", "commitOid": "1" * 40}
        return 200, {"id": repository, "private": self.repositories[repository], "siblings": [], "sha": "0" * 40}


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    """A hub that answers until the block ends."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, value = hub.answer(
                self.command, self.path.partition("?")[0], body, self.headers.get("Authorization", "")
            )
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_HEAD = _answer

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
