"""A server on 127.0.0.1 that speaks the Hub's protocol, both ways.

The tests use it through the real huggingface_hub client (`HF_ENDPOINT`, with
`HF_HUB_DISABLE_XET=1`).
"""

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml
from loopback_lfs import LargeFiles

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# Faults that are no status codes.
CUT = "cut"  # the connection breaks off, half-way through a body
LOST = "lost"  # the work is done, but its answer never arrives

# A model by its id, a Space as `spaces/` and its id.
_REPO = r"(?:models/)?((?:(?<=models/)|spaces/)[^/]+/[^/]+)"
# (method, path) -> step. Faults and hooks go by these names.
_ROUTES = [
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate"),
    (
        "GET",
        r"/api/(models|datasets|spaces)/([^/]+/[^/]+)(?:/revision/([^/]+))?",
        "info",
    ),
    ("GET", rf"/api/{_REPO}/tree/([^/]+)(?:/.*)?", "tree"),
    ("POST", rf"/api/{_REPO}/preupload/([^/]+)", "preupload"),
    ("POST", rf"/api/{_REPO}/commit/([^/]+)", "commit"),
    ("POST", r"/((?:spaces/)?[^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
    ("PUT", r"/lfs/([0-9a-f]{64})", "upload"),
    ("PUT", r"/lfs/([0-9a-f]{64})/parts/(\d+)", "part"),
    ("POST", r"/lfs/([0-9a-f]{64})/complete", "complete"),
    ("POST", r"/lfs/verify", "verify"),
    ("GET", r"/cdn/([0-9a-f]{64})/(.+)", "cdn"),
    ("GET", r"/((?:spaces/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", "resolve"),
]
STEPS = tuple(step for _, _, step in _ROUTES)
_ROUTES = [(method, re.compile(path), step) for method, path, step in _ROUTES]
# What needs a token: addresses of uploads are signed instead.
_WRITING = ("create", "validate", "preupload", "commit", "batch")
# What the Hub keeps outside git.
_LFS_SUFFIXES = (".safetensors", ".h5", ".bin", ".keras", ".tflite", ".onnx", ".pb")


class LoopbackHub:
    """Serves `repos`, {repo id: {file name: bytes}}, while the context is open.

    The id of a Space begins with `spaces/`; `sdks` has the kind of each one created.
    `requests` counts (method, file name) of downloads, `steps` every request by its
    step. `cut_after` maps a file name to the number of bytes after which its next
    download breaks off, once; `status` a file name to a status code that every
    request for it gets. `fail(step, fault)` makes requests of a step fail, and
    `before[step]` is called before one is answered. With a `token`, whatever writes
    needs it. `history` lists every commit of a repository, oldest first. Large files
    of more than `chunk_size` bytes come in parts.
    """

    def __init__(self, repos, token=None, datasets=(), chunk_size=None):
        self.repos = repos
        self.token = token
        self.datasets = set(datasets)
        self.requests = Counter()
        self.steps = Counter()
        self.cut_after = {}
        self.status = {}
        self.before = {}
        self.private = {}
        self.sdks = {}
        self.lfs = {}
        self.chunk_size = chunk_size
        self.parts = {}
        self.history = {}
        self._faults = {}
        self._lock = threading.Lock()

    def fail(self, step, fault, times=None):
        """Answer requests of a step with a status code, `CUT` or `LOST`.

        Args:
            step: One of `STEPS`.
            fault: A status code, `CUT` or `LOST`.
            times: How many requests; None for all.
        """
        assert step in STEPS
        self._faults[step] = [fault, times]

    def heal(self):
        self._faults.clear()
        self.before.clear()

    def head(self, repo):
        commits = self.history.get(repo)
        return commits[-1][0] if commits else COMMIT

    def files(self, repo, revision):
        """Return a repository's files at a revision, or None."""
        if revision in ("main", self.head(repo)):
            return self.repos[repo]
        return dict(self.history.get(repo, ())).get(revision)

    def take_fault(self, step):
        with self._lock:
            fault, times = self._faults.get(step, (None, None))
            if times is not None:
                self._faults[step][1] = times - 1
                if times <= 0:
                    return None
            return fault

    def commit(self, repo, parent, operations):
        """Apply a commit whole, or return None if `parent` is not the head."""
        with self._lock:
            if parent not in (None, self.head(repo)):
                return None
            files = dict(self.repos[repo])
            for key, value in operations:
                if key == "deletedFile":
                    del files[value["path"]]
                elif key == "lfsFile":
                    files[value["path"]] = self.lfs[value["oid"]]
                elif key == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
            content = repr((self.head(repo), sorted(files.items()))).encode()
            oid = hashlib.sha1(content).hexdigest()
            commits = self.history.setdefault(repo, [(COMMIT, self.repos[repo])])
            commits.append((oid, files))
            self.repos[repo] = files
            return oid

    def __enter__(self):
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


def git_oid(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_lfs(name):
    return name.endswith(_LFS_SUFFIXES)


class _Handler(LargeFiles, BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Keep the console for pytest; what was asked is in the hub's records."""

    def do_HEAD(self):
        self._answer("GET")

    def do_GET(self):
        self._answer("GET")

    def do_POST(self):
        self._answer("POST")

    def do_PUT(self):
        self._answer("PUT")

    def _answer(self, method):
        path = self.path.split("?")[0]
        routes = ((p.fullmatch(path), s) for m, p, s in _ROUTES if m == method)
        match, step = next(filter(lambda route: route[0], routes), (None, None))
        if match is None:
            self._read_body()
            return self._refuse(404, "EntryNotFound")
        self.hub.steps[step] += 1
        if step in self.hub.before:
            self.hub.before[step]()
        fault = self.hub.take_fault(step)
        length = int(self.headers.get("Content-Length", 0))
        if fault == CUT:
            self.rfile.read(length // 2)
            return self._hang_up()
        body = self._read_body()
        if isinstance(fault, int):
            return self._refuse(fault, "")
        if step in _WRITING and self.hub.token and not self._authorised():
            return self._refuse(401, "")
        self._lost = fault == LOST
        getattr(self, f"_{step}")(body, *match.groups())

    def _authorised(self):
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _read_body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _hang_up(self):
        self.close_connection = True
        self.connection.shutdown(2)

    def _json(self, values, status=200):
        if self._lost:
            return self._hang_up()
        body = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status, code, commit=None):
        # A server that repeats what it was sent, token and all.
        message = f"Refused {self.headers.get('Authorization', '')}".strip()
        # With the address, as the Hub answers who creates what is there.
        body = json.dumps({"error": message, "url": f"{self.hub.url}/x/y"}).encode()
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    # Writing

    def _create(self, body):
        values = json.loads(body)
        repo = f"{values['organization']}/{values['name']}"
        if values.get("type") == "space":
            repo = f"spaces/{repo}"
            self.hub.sdks[repo] = values["sdk"]
        if repo in self.hub.repos:
            return self._refuse(409, "")
        self.hub.repos[repo] = {".gitattributes": b"*.h5 filter=lfs\n"}
        self.hub.private[repo] = values.get("visibility") == "private" or values.get(
            "private", False
        )
        self._json({"url": f"{self.hub.url}/{repo}", "name": repo})

    def _validate(self, body):
        content = json.loads(body)["content"]
        try:
            metadata = yaml.safe_load(content.split("---\n")[1])
            assert isinstance(metadata, dict)
        except (yaml.YAMLError, IndexError, AssertionError) as error:
            return self._json({"errors": [{"message": str(error)}]}, 400)
        self._json({"errors": [], "warnings": []})

    def _preupload(self, body, repo, revision):
        if repo not in self.hub.repos:
            return self._refuse(404, "RepoNotFound")
        files = []
        for file in json.loads(body)["files"]:
            name = file["path"]
            there = self.hub.repos[repo].get(name)
            oid = None
            if there is not None:
                oid = hashlib.sha256(there).hexdigest() if is_lfs(name) else None
                oid = oid or git_oid(there)
            mode = "lfs" if is_lfs(name) else "regular"
            files.append(
                {"path": name, "uploadMode": mode, "shouldIgnore": False, "oid": oid}
            )
        self._json({"files": files})

    def _commit(self, body, repo, revision):
        header, *operations = [json.loads(line) for line in body.splitlines()]
        operations = [(o["key"], o["value"]) for o in operations]
        oid = self.hub.commit(repo, header["value"].get("parentCommit"), operations)
        if oid is None:
            return self._refuse(412, "")
        self._json(
            {"commitOid": oid, "commitUrl": f"{self.hub.url}/{repo}/commit/{oid}"}
        )

    # Reading

    def _info(self, body, kind, repo, revision):
        if kind == "datasets" and repo in self.hub.datasets:
            return self._json({"id": repo, "sha": COMMIT})
        name = repo if kind == "models" else f"{kind}/{repo}"
        if name not in self.hub.repos:
            return self._refuse(404, "RepoNotFound")
        found = self.hub.files(name, revision or "main")
        if found is None:
            return self._refuse(404, "RevisionNotFound")
        files = [
            {
                "rfilename": file,
                "size": len(data),
                "lfs": {
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "size": len(data),
                    "pointerSize": 134,
                },
            }
            for file, data in found.items()
        ]
        self._json(
            {
                "id": repo,
                "modelId": repo,
                "sha": self.hub.head(name) if revision in (None, "main") else revision,
                "siblings": files,
            }
        )

    def _tree(self, body, repo, revision):
        if repo not in self.hub.repos:
            return self._refuse(404, "RepoNotFound")
        files = self.hub.files(repo, revision)
        if files is None:
            return self._refuse(404, "RevisionNotFound")
        self._json(
            [
                {"type": "file", "path": n, "size": len(data), "oid": git_oid(data)}
                for n, data in files.items()
            ]
        )

    def _resolve(self, body, repo, revision, name):
        self.hub.requests[self.command, name] += 1
        if name in self.hub.status:
            return self._refuse(self.hub.status[name], "")
        if repo not in self.hub.repos:
            return self._refuse(404, "RepoNotFound")
        files = self.hub.files(repo, revision)
        if files is None and revision != COMMIT:
            return self._refuse(404, "RevisionNotFound")
        files = self.hub.repos[repo] if files is None else files
        commit = self.hub.head(repo) if revision == "main" else revision
        if name not in files:
            # With the commit, by which the client remembers that it lacks the file.
            return self._refuse(404, "EntryNotFound", commit)
        data = files[name]
        oid = hashlib.sha256(data).hexdigest()
        if oid not in self.hub.lfs:
            return self._send_file(name, data, commit)
        # What was uploaded as a large file lies on another host.
        elsewhere = self.hub.url.replace("127.0.0.1", "localhost")
        self.send_response(302)
        self.send_header("Location", f"{elsewhere}/cdn/{oid}/{name}")
        self.send_header("X-Linked-Etag", f'"{oid}"')
        self.send_header("X-Linked-Size", str(len(data)))
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _cdn(self, body, oid, name):
        self._send_file(name, self.hub.lfs[oid], None)

    def _send_file(self, name, data, commit):
        start = 0
        requested = re.fullmatch(r"bytes=(\d+)-\d*", self.headers.get("Range", ""))
        if requested:
            start = int(requested[1])
            self.send_response(206)
            self.send_header(
                "Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}"
            )
        else:
            self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.hub.cut_after.pop(name, None)
        self.wfile.write(data[start:cut])
        if cut is not None:
            self.close_connection = True
