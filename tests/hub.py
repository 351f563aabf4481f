"""A local HTTP server that stands in for the Hugging Face hub: the few requests that huggingface_hub makes of it."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE_BYTES = 5_000
"""From here on a file is kept apart from git (LFS), and so named by its sha256."""


@dataclass
class Repository:
    """A model on the hub: its commits by their hashes, and names for them."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    """Who may read it; None is everyone."""

    def commit(self, files: dict[str, bytes], *names: str) -> str:
        """Add a commit under names (`main` by default). Returns its hash."""
        content = json.dumps({name: hashlib.sha1(data).hexdigest() for name, data in files.items()})
        commit = hashlib.sha1(content.encode()).hexdigest()
        self.commits[commit] = files
        self.refs |= dict.fromkeys(names or ("main",), commit)
        return commit

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """A revision's commit and files."""
        commit = self.refs.get(revision, revision)
        return (commit, self.commits[commit]) if commit in self.commits else None


def folder_files(folder: Path) -> dict[str, bytes]:
    """The content of a folder, to be committed."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Hub:
    """The server's state, and what it was asked for."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        """`GET file` or `GET file from N`, and the paths of other requests."""
        self.damaged: set[str] = set()
        """Files whose content is sent with a byte changed."""
        self.cut: dict[str, int] = {}
        """Files whose connection breaks once, after so many bytes."""
        self.url = ""

    def downloads(self) -> list[str]:
        """The files whose content was asked for."""
        return [each.removeprefix("GET ") for each in self.requests if each.startswith("GET ")]

    @contextmanager
    def serving(self) -> Iterator["Hub"]:
        """Answer on a free port."""
        hub = self

        class Handler(_Handler):
            state = hub

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, with_content: bool) -> None:
        path = urlsplit(self.path).path
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        name = (api or file or [None, ""])[1]
        repository = self.state.repositories.get(str(name))
        if repository is None:
            return self._refuse(401, "RepoNotFound", "Invalid username or password.")
        if repository.token and self.headers.get("Authorization") != f"Bearer {repository.token}":
            return self._refuse(403, "GatedRepo", f"Access to model {name} is restricted.")
        revision = unquote((api[3] if api else file[2] if file else None) or "main")
        found = repository.files(revision)
        if found is None:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        commit, files = found
        if api:
            self.state.requests.append(path)
            listing = [_entry(name, data) for name, data in files.items()]
            siblings = [{"rfilename": name} for name in files]
            return self._send_json(listing if api[2] == "tree" else {"id": name, "sha": commit, "siblings": siblings})
        assert file is not None
        path = unquote(file[3])
        if path not in files:
            return self._refuse(404, "EntryNotFound", f"{path} does not exist", commit)
        return self._send_file(path, files[path], commit, with_content)

    def _send_file(self, name: str, data: bytes, commit: str, with_content: bool) -> None:
        start = int((re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")) or [0, 0])[1])
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{_git_hash(data)}"')
        if len(data) >= LARGE_BYTES:
            self.send_header("X-Linked-ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Linked-Size", str(len(data)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if not with_content:
            return
        self.state.requests.append(f"GET {name} from {start}" if start else f"GET {name}")
        if name in self.state.damaged:
            data = data[:-1] + bytes([data[-1] ^ 1])
        end = self.state.cut.pop(name, len(data))
        self.wfile.write(data[start:end])
        self.close_connection = end < len(data)

    def _send_json(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, code: str, message: str, commit: str | None = None) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _entry(name: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": _git_hash(data)}
    if len(data) >= LARGE_BYTES:
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry


def _git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
