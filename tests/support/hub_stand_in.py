"""A server that answers as Hugging Face's hub does, for a few repositories in memory.

It has what ``huggingface_hub`` asks for to make a repository, commit files to it (inline, or by Git LFS), list them and
download them, and keeps every byte that it receives. Nothing here asks the internet for anything.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_dummy"

REPOSITORY = re.compile(r"/(?:api/models/)?([\w.-]+/[\w.-]+?)(?:\.git)?(/.*)?$")


class HubStandIn:
    """The repositories, and what was received.

    Attributes:
        commits: for each repository its commits, oldest first: identifier and files.
        received: bodies and targets of all requests, and what was encoded in them.
        lfs_files: ends of the names that are uploaded by Git LFS.
    """

    def __init__(self, lfs_files: tuple[str, ...] = (".pt",)) -> None:
        self.commits: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.private: dict[str, bool] = {}
        self.objects: dict[str, bytes] = {}
        self.received: list[bytes] = []
        self.lfs_files = lfs_files
        self.endpoint = ""

    def commit(self, repo_id: str, files: dict[str, bytes]) -> str:
        """Add a commit with these files, and return its identifier."""
        past = self.commits.setdefault(repo_id, [])
        content = b"".join(name.encode() + b"\0" + body for name, body in sorted(files.items()))
        identifier = hashlib.sha1(f"{len(past)}".encode() + content).hexdigest()
        past.append((identifier, dict(files)))
        return identifier

    def change(self, repo_id: str, name: str, content: bytes | None) -> str:
        """Replace a file of the last commit, or remove it, as someone with access could."""
        files = self.files(repo_id)
        files.pop(name, None)
        return self.commit(repo_id, files if content is None else {**files, name: content})

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Return the files at a commit."""
        return dict(self.at(repo_id, revision)[1])

    def at(self, repo_id: str, revision: str) -> tuple[str, dict[str, bytes]]:
        """Return a commit; KeyError if there is none."""
        past = self.commits[repo_id]
        return past[-1] if revision == "main" else dict((each[0], each) for each in past)[revision]


class Handler(BaseHTTPRequestHandler):
    hub: HubStandIn

    def log_message(self, *args: Any) -> None:
        pass

    def answer(self, status: int, content: Any = None, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def missing(self, code: str = "RepoNotFound") -> None:
        self.answer(404, {"error": "not found"}, {"X-Error-Code": code, "X-Error-Message": "not found"})

    def body(self) -> bytes:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.received += [self.path.encode(), str(self.headers).encode(), content]
        return content

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.body()
        address = urlsplit(self.path)
        if self.path.startswith("/objects/"):
            return self.answer(200, self.hub.objects[self.path.removeprefix("/objects/")])
        repo_id, rest = REPOSITORY.match(unquote(address.path)).groups()
        if repo_id not in self.hub.commits:
            return self.missing()
        rest = rest or "/revision/main"
        kind, revision, *name = rest[1:].split("/", 2)
        try:
            identifier, files = self.hub.at(repo_id, revision)
        except KeyError:
            return self.missing("RevisionNotFound")
        if kind == "revision":
            blobs = "blobs" in parse_qs(address.query)
            siblings = [{"rfilename": path, **({"size": len(files[path])} if blobs else {})} for path in files]
            return self.answer(
                200, {"id": repo_id, "sha": identifier, "siblings": siblings, "private": self.hub.private[repo_id]}
            )
        if name[0] not in files:
            return self.missing("EntryNotFound")
        content = files[name[0]]
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        return self.answer(200, content, {"X-Repo-Commit": identifier, "ETag": etag})

    def do_PUT(self) -> None:
        content = self.body()
        digest = self.path.removeprefix("/objects/")
        if hashlib.sha256(content).hexdigest() != digest:
            return self.answer(400, {"error": "another object"})
        self.hub.objects[digest] = content
        return self.answer(200, b"")

    def do_POST(self) -> None:
        content = self.body()
        path = unquote(urlsplit(self.path).path)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "no token"}, {"X-Error-Message": "no token"})
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self.create(json.loads(content))
        repo_id, rest = REPOSITORY.match(path).groups()
        if repo_id not in self.hub.commits:
            return self.missing()
        if rest == "/info/lfs/objects/batch":
            objects = [self.upload_of(entry) for entry in json.loads(content)["objects"]]
            return self.answer(200, {"transfer": "basic", "objects": objects})
        if rest.startswith("/preupload/"):
            files = [
                {"path": entry["path"], "uploadMode": self.mode_of(entry["path"]), "shouldIgnore": False}
                for entry in json.loads(content)["files"]
            ]
            self.hub.received += [base64.b64decode(entry["sample"]) for entry in json.loads(content)["files"]]
            return self.answer(200, {"files": files})
        return self.commit(repo_id, [json.loads(line) for line in content.splitlines()])

    def mode_of(self, name: str) -> str:
        return "lfs" if name.endswith(self.hub.lfs_files) else "regular"

    def upload_of(self, entry: dict[str, Any]) -> dict[str, Any]:
        actions = {"upload": {"href": f"{self.hub.endpoint}/objects/{entry['oid']}"}}
        return {"oid": entry["oid"], "size": entry["size"], "actions": actions}

    def create(self, asked: dict[str, Any]) -> None:
        repo_id = f"{asked['organization']}/{asked['name']}"
        known = repo_id in self.hub.commits
        if not known:
            self.hub.private[repo_id] = asked.get("private") is True or asked.get("visibility") == "private"
            self.hub.commit(repo_id, {".gitattributes": b"*.pt filter=lfs\n"})
        url = {"url": f"{self.hub.endpoint}/{repo_id}", "error": "exists"}
        return self.answer(409 if known else 200, url)

    def commit(self, repo_id: str, lines: list[dict[str, Any]]) -> None:
        parent = lines[0]["value"].get("parentCommit")
        last, files = self.hub.at(repo_id, "main")
        if parent not in (None, last):
            return self.answer(412, {"error": "a commit has been pushed since"})
        files = dict(files)
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
                self.hub.received.append(files[value["path"]])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            else:
                assert line["key"] == "deletedFile"
                del files[value["path"]]
        identifier = self.hub.commit(repo_id, files)
        url = f"{self.hub.endpoint}/{repo_id}/commit/{identifier}"
        return self.answer(200, {"success": True, "commitOid": identifier, "commitUrl": url})


def without_the_internet() -> None:
    """Have huggingface_hub ask nobody but a stand-in whose address it is given."""
    import huggingface_hub.constants as settings

    # set here, since importing MONAI has imported the package before any environment variable could be set
    settings.HF_HUB_DISABLE_XET = settings.HF_HUB_DISABLE_TELEMETRY = True
    settings.HF_HUB_DISABLE_PROGRESS_BARS = settings.HF_HUB_DISABLE_IMPLICIT_TOKEN = True


@contextlib.contextmanager
def hub_stand_in(**options: Any) -> Iterator[HubStandIn]:
    """Serve a stand-in from a thread of its own."""
    without_the_internet()
    hub = HubStandIn(**options)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
