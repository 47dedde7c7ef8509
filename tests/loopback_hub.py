"""A server on 127.0.0.1 that speaks the Hub's download protocol.

The tests use it through the real huggingface_hub client (`HF_ENDPOINT`).
"""

import hashlib
import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_MODEL_INFO = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/[^/]+)?")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class LoopbackHub:
    """Serves `repos`, {repo id: {file name: bytes}}, while the context is open.

    `requests` counts (method, file name). `cut_after` maps a file name to the number
    of bytes after which its next download breaks off, once. `status` maps a file
    name to a status code that every request for it gets.
    """

    def __init__(self, repos):
        self.repos = repos
        self.requests = Counter()
        self.cut_after = {}
        self.status = {}

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


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._resolve(body=False)

    def do_GET(self):
        match = _MODEL_INFO.fullmatch(self.path.split("?")[0])
        if match:
            self._model_info(match[1])
        else:
            self._resolve(body=True)

    def _model_info(self, repo):
        if repo not in self.hub.repos:
            return self._refuse(404, "RepoNotFound")
        files = [
            {
                "rfilename": name,
                "size": len(data),
                "lfs": {
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "size": len(data),
                    "pointerSize": 134,
                },
            }
            for name, data in self.hub.repos[repo].items()
        ]
        info = {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": files}
        body = json.dumps(info).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _resolve(self, body):
        match = _RESOLVE.fullmatch(self.path.split("?")[0])
        if not match:
            return self._refuse(404, "EntryNotFound")
        repo, _, name = match.groups()
        self.hub.requests[self.command, name] += 1
        if name in self.hub.status:
            return self._refuse(self.hub.status[name], "")
        if repo not in self.hub.repos:
            return self._refuse(404, "RepoNotFound")
        if name not in self.hub.repos[repo]:
            return self._refuse(404, "EntryNotFound")
        self._send_file(name, self.hub.repos[repo][name], body)

    def _refuse(self, status, code):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_file(self, name, data, body):
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
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if not body:
            return
        cut = self.hub.cut_after.pop(name, None)
        self.wfile.write(data[start:cut])
        if cut is not None:
            self.close_connection = True
