"""A stand-in for the hub: the HTTP requests that huggingface_hub makes to push a model.

It speaks the plain LFS protocol, not Xet, which the client uses where the server offers it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

TOKEN = "hf_of_the_stand_in"


@dataclass
class Hub:
    """What is on the hub, what was asked of it, and what it shall refuse.

    Attributes:
        repositories: name → path → content; what a reader of the repository sees.
        private: the repositories that were made private.
        refused: part of a request's path → HTTP status and message to answer with.
        requests: ``METHOD /path`` in the order they came.
    """

    address: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    uploads: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0

    def answer(
        self, method: str, path: str, body: bytes, token: str | None
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers and JSON."""
        for part, (status, message) in self.refused.items():
            if part in path:
                return status, {"X-Error-Message": message}, {"error": message}
        if path.startswith("/upload/"):  # the store of large files knows no tokens
            self.uploads[path.removeprefix("/upload/")] = body
            return 200, {}, {}
        if token != TOKEN:
            message = "Invalid credentials in Authorization header"
            return 401, {"X-Error-Message": message}, {"error": message}
        match path.strip("/").split("/"):
            case ["api", "validate-yaml"]:
                return 200, {}, {"errors": [], "warnings": []}
            case ["api", "repos", "create"]:
                return self._create(json.loads(body))
            case ["api", "models", org, name]:
                return self._describe(f"{org}/{name}")
            case ["api", "models", org, name, "preupload", "main"]:
                return self._preupload(f"{org}/{name}", json.loads(body))
            case [_, _, "info", "lfs", "objects", "batch"]:
                return self._batch(json.loads(body))
            case ["verify"]:
                asked = json.loads(body)
                known = self.uploads.get(asked["oid"], b"")
                right = hashlib.sha256(known).hexdigest() == asked["oid"]
                return 200 if right and len(known) == asked["size"] else 422, {}, {}
            case ["api", "models", org, name, "commit", "main"]:
                return self._commit(f"{org}/{name}", body)
        return 404, {"X-Error-Code": "EntryNotFound"}, {}

    def _describe(self, repository: str) -> tuple[int, dict[str, str], Any]:
        if repository not in self.repositories:
            return 404, {"X-Error-Code": "RepoNotFound"}, {"error": "Repository not found"}
        files = [{"rfilename": name} for name in self.repositories[repository]]
        return 200, {}, {"id": repository, "siblings": files}

    def _create(self, asked: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        repository = f"{asked['organization']}/{asked['name']}"
        url = {"url": f"{self.address}/{repository}"}
        if repository in self.repositories:
            return 409, {}, url
        self.repositories[repository] = {".gitattributes": b""}
        if asked.get("visibility") == "private" or asked.get("private"):
            self.private.add(repository)
        return 200, {}, url

    def _preupload(self, repository: str, asked: Any) -> tuple[int, dict[str, str], Any]:
        if repository not in self.repositories:
            return 404, {"X-Error-Code": "RepoNotFound"}, {}
        return (
            200,
            {},
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for file in asked["files"]
                ]
            },
        )

    def _batch(self, asked: Any) -> tuple[int, dict[str, str], Any]:
        return (
            200,
            {},
            {
                "transfer": "basic",
                "objects": [
                    {
                        **item,
                        "actions": {
                            "upload": {"href": f"{self.address}/upload/{item['oid']}"},
                            "verify": {"href": f"{self.address}/verify"},
                        },
                    }
                    for item in asked["objects"]
                ],
            },
        )

    def _commit(self, repository: str, body: bytes) -> tuple[int, dict[str, str], Any]:
        files = dict(self.repositories[repository])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.uploads[value["oid"]]
        self.repositories[repository] = files
        self.commits += 1
        oid = f"{self.commits:040x}"
        return 200, {}, {"commitUrl": f"{self.address}/{repository}/commit/{oid}", "commitOid": oid}


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that listens on this machine."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.split("?")[0]
            hub.requests.append(f"{self.command} {path}")
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
            status, headers, answer = hub.answer(self.command, path, body, token)
            content = json.dumps(answer).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Type": "application/json"}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_HEAD = handle_any

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    asked_to_stop_every = {"poll_interval": 0.01}  # seconds; half a second by default
    Thread(target=server.serve_forever, kwargs=asked_to_stop_every, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
