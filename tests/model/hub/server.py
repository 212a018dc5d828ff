"""A hub on this machine: the part of the Hugging Face API that downloads use, over real HTTP."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub:
    """Repositories by name, each a list of commits (files by name).

    What was asked is in `asked`.
    """

    def __init__(self) -> None:
        self.repos: dict[str, list[dict[str, bytes]]] = {}
        self.gated: set[str] = set()
        self.plain: dict[str, bytes] = {}  # files that are no repository's, by path
        self.cut: int | None = None  # bytes of a file after which the line is cut, and stays so
        self.asked: list[tuple[str, str, str | None]] = []  # method, path, range
        hub = self

        class Handler(_Handler):
            def __init__(self, *args: Any) -> None:
                self.hub = hub
                super().__init__(*args)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def commit(self, repo: str, files: dict[str, bytes]) -> str:
        self.repos.setdefault(repo, []).append(files)
        return self.sha(repo, len(self.repos[repo]) - 1)

    def sha(self, repo: str, index: int) -> str:
        return hashlib.sha1(f"{repo}{index}".encode()).hexdigest()

    def files(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self.repos.get(repo, [])
        for index in reversed(range(len(commits))):
            if revision in ("main", self.sha(repo, index)):
                return self.sha(repo, index), commits[index]
        return None


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = self.path.split("?")[0]
        self.hub.asked.append((self.command, path, self.headers.get("Range")))
        if path in self.hub.plain:
            return self._send_file(self.hub.plain[path], {})
        if m := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
            return self._describe(m[1], m[2], m[3] or "main")
        if (m := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)) and (
            found := self.hub.files(m[1], m[2])
        ):
            if m[1] in self.hub.gated and self.headers.get("Authorization") != "Bearer good":
                return self._send(
                    401,
                    b"",
                    {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"},
                )
            if (content := found[1].get(m[3])) is not None:
                digest = hashlib.sha256(content).hexdigest()
                return self._send_file(content, {"ETag": f'"{digest}"', "X-Repo-Commit": found[0]})
        return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

    def _describe(self, repo: str, kind: str | None, revision: str) -> None:
        found = self.hub.files(repo, revision)
        if found is None:
            code = "RevisionNotFound" if repo in self.hub.repos else "RepoNotFound"
            return self._send(404, b"{}", {"X-Error-Code": code})
        sha, files = found
        rows = [(n, len(c), hashlib.sha256(c).hexdigest()) for n, c in files.items()]
        if kind == "tree":
            answer: Any = [
                {
                    "type": "file",
                    "path": n,
                    "size": s,
                    "oid": h[:40],
                    "lfs": {"oid": h, "size": s, "pointerSize": 1},
                }
                for n, s, h in rows
            ]
        else:
            siblings = [
                {
                    "rfilename": n,
                    "size": s,
                    "blobId": h[:40],
                    "lfs": {"sha256": h, "size": s, "pointerSize": 1},
                }
                for n, s, h in rows
            ]
            answer = {"id": repo, "sha": sha, "siblings": siblings, "private": False, "tags": []}
        return self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _send_file(self, content: bytes, headers: dict[str, str]) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(asked[1]) if asked else 0
        body, status = content[start:], 200
        if asked:
            headers |= {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            status = 206
        cut = self.hub.cut
        if cut is not None and self.command == "GET" and len(content) > cut:
            if start:
                return self._send(500, b"", {})
            return self._send(200, body[:cut], headers, length=len(body), close=True)
        return self._send(status, body, headers | {"Accept-Ranges": "bytes"})

    def _send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str],
        length: int | None = None,
        close: bool = False,
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.close_connection = close or self.close_connection
