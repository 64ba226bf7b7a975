"""A Hugging Face hub in memory, on loopback: enough to push models, processors and Trainer runs and to load them back.

    with LocalHub() as hub:
        ...  # clients run with HF_ENDPOINT=hub.url and HF_HUB_DISABLE_XET=1
        hub.repositories["me/tiny"]["README.md"]  # bytes

A repository is a dictionary of path to bytes. There is one user, `me`, one branch and no history.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USER = "me"
_LARGE = (".safetensors", ".bin", ".pt")  # travel through Git LFS
_ROUTES: list[tuple[str, re.Pattern, Callable[..., None]]] = []


def route(method: str, path: str) -> Callable[[Callable], Callable]:
    """Send requests to a handler's method, with the groups of the path as arguments; the first match counts."""

    def add(function: Callable) -> Callable:
        _ROUTES.append((method, re.compile(path.replace("<repo>", "([^/]+/[^/]+)")), function))
        return function

    return add


def sha1(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


class LocalHub:
    """Serves while in a `with` block."""

    def __init__(self):
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.large_files: dict[str, bytes] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "LocalHub":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def commit_id(self, name: str) -> str:
        """A name for the repository's present content."""
        return sha1(repr(sorted((path, sha1(data)) for path, data in self.repositories[name].items())).encode())


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def _dispatch(self) -> None:
        self.content = self._read_content()
        path = self.path.partition("?")[0]
        for method, pattern, function in _ROUTES:
            if self.command == method and (match := pattern.fullmatch(path)):
                return function(self, *match.groups())
        return self._refuse(404, "EntryNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = _dispatch  # noqa: N815

    @route("GET", "/api/whoami-v2")
    def _who_am_i(self) -> None:
        self._answer({"name": USER, "type": "user", "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    @route("POST", "/api/repos/create")
    def _create(self) -> None:
        request = json.loads(self.content)
        name = f"{request.get('organization') or USER}/{request['name']}"
        created = name not in self.hub.repositories
        self.hub.repositories.setdefault(name, {})
        self._answer({"url": f"{self.hub.url}/{name}", "name": name, "id": name}, status=200 if created else 409)

    @route("POST", "/api/validate-yaml")
    def _validate_card(self) -> None:
        self._answer({"errors": [], "warnings": []})

    @route("POST", "/api/models/<repo>/preupload/.+")
    def _announce(self, name: str) -> None:
        paths = [file["path"] for file in json.loads(self.content)["files"]]
        modes = {path: "lfs" if path.endswith(_LARGE) else "regular" for path in paths}
        files = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]
        self._answer({"files": files})

    @route("POST", r"/<repo>\.git/info/lfs/objects/batch")
    def _plan_large_files(self, name: str) -> None:
        objects = json.loads(self.content)["objects"]
        for item in objects:
            item["actions"] = {"upload": {"href": f"{self.hub.url}/large_files/{item['oid']}"}}
        self._answer({"transfer": "basic", "objects": objects})

    @route("PUT", "/large_files/(.+)")
    def _store_large_file(self, oid: str) -> None:
        self.hub.large_files[oid] = self.content
        self._answer({})

    @route("POST", "/api/models/<repo>/commit/.+")
    def _commit(self, name: str) -> None:
        files = self.hub.repositories[name]
        for line in self.content.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            elif entry["key"] == "lfsFile":
                files[entry["value"]["path"]] = self.hub.large_files[entry["value"]["oid"]]
        commit = self.hub.commit_id(name)
        self._answer({"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit})

    @route("GET", "/api/models/<repo>/tree/.+")
    def _list(self, name: str) -> None:
        files = self.hub.repositories.get(name, {})
        self._answer([{"type": "file", "path": p, "size": len(data), "oid": sha1(data)} for p, data in files.items()])

    @route("GET", "/api/models/<repo>(?:/revision/.+)?")
    def _describe(self, name: str) -> None:
        if name not in self.hub.repositories:
            return self._refuse(404, "RepoNotFound")
        siblings = [{"rfilename": path} for path in self.hub.repositories[name]]
        return self._answer({"id": name, "sha": self.hub.commit_id(name), "tags": [], "siblings": siblings})

    @route("HEAD", "/<repo>/resolve/[^/]+/(.+)")
    @route("GET", "/<repo>/resolve/[^/]+/(.+)")
    def _download(self, name: str, path: str) -> None:
        if name not in self.hub.repositories:
            return self._refuse(404, "RepoNotFound")
        commit = {"X-Repo-Commit": self.hub.commit_id(name)}
        if path not in self.hub.repositories[name]:
            return self._refuse(404, "EntryNotFound", **commit)
        content = self.hub.repositories[name][path]
        return self._answer(content, ETag=f'"{sha1(content)}"', **commit)

    def _answer(self, body: Any, status: int = 200, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if body is content else "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _refuse(self, status: int, code: str, **headers: str) -> None:
        self._answer({"error": code}, status, **{"X-Error-Code": code, **headers})

    def _read_content(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def log_message(self, *args: object) -> None:
        """Stay quiet."""
