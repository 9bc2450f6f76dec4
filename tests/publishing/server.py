"""A Hub on loopback: the requests of huggingface_hub for pushes and downloads over real HTTP, and faults on demand.

    with HubServer() as hub:
        environment = os.environ | hub.environment  # for a process that pushes or downloads

Files live in memory. A commit is one step: its files are in the repository together or not at all.
"""

import base64
import hashlib
import json
import re
import sys
import threading
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from repository import LARGE, Repo, content_id, info, metadata_errors, tree

OWNER = "user"
TOKEN, READ_ONLY = "hf_" + "w" * 34, "hf_" + "r" * 34
MESSAGES = {401: "Invalid credentials in Authorization header", 507: "Insufficient Storage: no space left on device"}


class HubServer(ThreadingHTTPServer):
    """The server; `repos` holds what was pushed.

    Attributes:
        repos: "models/user/name" or "datasets/user/name" -> repository.
        objects: sha256 -> content of every large file that was uploaded, committed or not.
        faults: step ("create", "batch", "upload", "commit") -> statuses to answer in turn, 0 to hang up.
        hold: when set to a number, uploads after so many more block until the client is gone; `held` is then set.
        counts: how often each step was asked for.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.faults: dict[str, list[int]] = {}
        self.hold: int | None = None
        self.held = threading.Event()
        self.counts: Counter[str] = Counter()
        self.lock = threading.Lock()

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which a new process talks to this server, as the owner of its repositories."""
        switches = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "0"}
        return {"HF_ENDPOINT": self.url, "HF_TOKEN": TOKEN, "NO_PROXY": "127.0.0.1", **switches}

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *where: object) -> None:
        """Shows an error, unless it is a client that hung up."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(*where)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, body: object = None, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body if body is not None else {}).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _refuse(self, status: int, code: str = "") -> None:
        message = MESSAGES.get(status, "refused")
        headers = {"X_Error_Message": message} | ({"X_Error_Code": code} if code else {})
        self._answer(status, {"error": message}, **headers)

    def _fault(self, step: str) -> bool:
        """Counts a step, and answers it with its next fault if there is one."""
        with self.server.lock:
            self.server.counts[step] += 1
            status = self.server.faults[step].pop(0) if self.server.faults.get(step) else None
        if status is None:
            return False
        if status:
            self._refuse(status)
        self.close_connection = True
        return True

    @property
    def _token(self) -> str | None:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

    def _may_write(self) -> bool:
        if self._token == TOKEN:
            return True
        self._refuse(403 if self._token == READ_ONLY else 401)
        return False

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        if path == "/api/whoami-v2":
            known = self._token in (TOKEN, READ_ONLY)
            self._answer(200, {"type": "user", "name": OWNER, "orgs": []}) if known else self._refuse(401)
        elif found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            kind, name, revision, file = found.groups()
            if commit := self._at(f"{(kind or 'models/')}{name}", revision):
                self._file(*commit, file)
        elif found := re.fullmatch(r"/api/((?:models|datasets)/[^/]+/[^/]+)(?:/(revision|tree)/([^/]+)/?(.*))?", path):
            name, what, revision, folder = found.groups()
            if commit := self._at(name, revision or "main"):
                deep = parse_qs(url.query).get("recursive", ["false"])[0].lower() == "true"
                private = self.server.repos[name].private
                self._answer(200, tree(commit[1], folder, deep) if what == "tree" else info(name, private, *commit))
        else:
            self._refuse(404)

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            errors = metadata_errors(json.loads(body)["content"])
            self._answer(400 if errors else 200, {"errors": [{"message": e} for e in errors], "warnings": []})
        elif found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self._batch(json.loads(body))
        elif found := re.fullmatch(r"/api/(models/.+|datasets/.+)/(preupload|commit|paths-info)/([^/]+)", path):
            name, step, revision = found.groups()
            if step == "paths-info":
                if commit := self._at(name, revision):
                    wanted = parse_qs(body.decode()).get("paths") or json.loads(body)["paths"]
                    self._answer(200, [entry for entry in tree(commit[1], "", True) if entry["path"] in wanted])
            elif name not in self.server.repos:
                self._refuse(404, "RepoNotFound")
            elif self._may_write():
                getattr(self, f"_{step}")(name, json.loads(body) if step == "preupload" else body)
        else:
            self._refuse(404)

    def do_PUT(self) -> None:
        oid = self.path.removeprefix("/lfs/")
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self._fault("upload"):
            return
        if not self._may_upload():
            self.server.held.set()
            with suppress(OSError):
                self.connection.recv(1)  # nothing comes any more: this returns when the client is gone
            self.close_connection = True
            return
        assert hashlib.sha256(content).hexdigest() == oid, "an upload must be the object that was announced"
        self.server.objects[oid] = content
        self._answer(200, ETag=f'"{oid}"')

    def _may_upload(self) -> bool:
        with self.server.lock:
            if self.server.hold is not None:
                self.server.hold -= 1
            return self.server.hold is None or self.server.hold >= 0

    def _create(self, wanted: dict) -> None:
        if self._fault("create") or not self._may_write():
            return
        kind = wanted.get("type") or "model"
        name = f"{wanted.get('organization') or OWNER}/{wanted['name']}"
        url = f"{self.server.url}/{'datasets/' if kind == 'dataset' else ''}{name}"
        if (key := f"{kind}s/{name}") in self.server.repos:
            self._answer(409, {"error": "You already created this repo", "url": url})
            return
        self.server.repos[key] = Repo(private=wanted.get("visibility") == "private")
        self.server.repos[key].commit("initial commit", {".gitattributes": b""})
        self._answer(200, {"url": url, "name": name})

    def _batch(self, wanted: dict) -> None:
        if self._fault("batch") or not self._may_write():
            return
        objects = []
        for entry in wanted["objects"]:
            upload = {"upload": {"href": f"{self.server.url}/lfs/{entry['oid']}"}}
            objects.append(entry if entry["oid"] in self.server.objects else entry | {"actions": upload})
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _preupload(self, name: str, wanted: dict) -> None:
        files = []
        for file in wanted["files"]:
            old = self.server.repos[name].files.get(file["path"])
            mode = "lfs" if file["path"].endswith(LARGE) else "regular"
            oid = None if old is None else content_id(file["path"], old)
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._answer(200, {"files": files})

    def _commit(self, name: str, body: bytes) -> None:
        if self._fault("commit"):
            return
        repo = self.server.repos[name]
        files, message = dict(repo.files), ""
        for line in body.splitlines():
            key, value = (entry := json.loads(line))["key"], entry["value"]
            if key == "header":
                message = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        oid = repo.commit(message, files)
        url = f"{self.server.url}/{name.removeprefix('models/')}/commit/{oid}"
        self._answer(200, {"commitUrl": url, "commitOid": oid})

    def _at(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        repo = self.server.repos.get(name)
        if repo is None or (repo.private and self._token not in (TOKEN, READ_ONLY)):
            self._refuse(401 if self._token is None else 404, "RepoNotFound")
            return None
        if (commit := repo.at(revision)) is None:
            self._refuse(404, "RevisionNotFound")
        return commit

    def _file(self, oid: str, files: dict[str, bytes], path: str) -> None:
        if path not in files:
            self._answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit=oid)
            return
        content, etag = files[path], f'"{content_id(path, files[path])}"'
        linked = {"X_Linked_Etag": etag, "X_Linked_Size": str(len(content))} if path.endswith(LARGE) else {}
        self._answer(200, content, ETag=etag, X_Repo_Commit=oid, **linked)
