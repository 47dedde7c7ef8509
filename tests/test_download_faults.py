"""A Hub that misbehaves: every fault is one clear sentence, and the next call works."""

import contextlib
import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import golden
import pytest
from hub_client import pointed_at

from keras_cvt.checkpoints import sources
from keras_cvt.repository import guards

DATA = (
    golden.FOLDER.parent / "checkpoints" / "hf_pt" / "model.safetensors"
).read_bytes()
COMMIT = "a" * 40


class Server(ThreadingHTTPServer):
    """Serves model.safetensors of any repository, in the way that `fault` names."""

    daemon_threads = True
    fault = None
    # So many requests of the method get no answer.
    hang_ups = 0
    method = "HEAD"

    def handle_error(self, *_):
        """Clients hang up; that is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Keep the requests out of the tests' output."""

    def head(self, status, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def do_GET(self):
        fault = self.server.fault
        if self.server.hang_ups and self.command == self.server.method:
            self.server.hang_ups -= 1
            self.close_connection = True
            return None
        if not self.path.split("?")[0].endswith("model.safetensors"):
            missing = {"X_Error_Code": "EntryNotFound", "X_Repo_Commit": COMMIT}
            return self.head(404, Content_Length=0, **missing)
        if isinstance(fault, int):
            return self.head(fault, Content_Length=0)
        etag = f'"{hashlib.sha256(DATA).hexdigest()}"'
        address = {"file": "file:///etc/passwd", "loop": self.path}.get(fault)
        if address:
            return self.head(
                302,
                Location=address,
                X_Repo_Commit=COMMIT,
                X_Linked_Etag=etag,
                Content_Length=0,
            )
        names = {"ETag": etag, "X_Repo_Commit": COMMIT}
        if fault == "etag":
            names["ETag"] = '"../../../../escaped"'
        if fault == "commit":
            names["X_Repo_Commit"] = "../../../escaped"
        half = DATA[: len(DATA) // 2]
        body = half if fault in ("half", "cut") else DATA
        length = len(half) if fault == "half" else len(DATA)
        self.head(200, Content_Length=length, **names)
        if self.command == "HEAD":
            return None
        if fault == "slow":
            with contextlib.suppress(OSError):
                for byte in DATA[:100]:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.05)
        else:
            self.wfile.write(body)
        # Without the header `Connection: close`, so that the client may send its next
        # request here.
        self.close_connection = True
        return None

    do_HEAD = do_GET


@pytest.fixture
def server(tmp_path, monkeypatch):
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pointed_at(f"http://127.0.0.1:{server.server_port}", tmp_path, monkeypatch):
        yield server
    server.shutdown()


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("file", "redirects to 'file:///etc/passwd'"),
        ("loop", "redirects without an end|broke off|redirects to nowhere"),
        ("cut", "broke off"),
        (429, "status 429"),
        (500, "status 500"),
        (503, "status 503"),
        ("etag", "etag is not a file name"),
        ("commit", "x-repo-commit is not a file name"),
    ],
)
def test_a_fault_is_one_sentence_and_the_next_call_works(
    server, tmp_path, monkeypatch, fault, sentence
):
    server.fault = fault
    with monkeypatch.context() as patched:
        patched.setattr(time, "sleep", lambda seconds: None)
        with pytest.raises(OSError, match=sentence) as caught:
            sources.resolve("hf://org/repo")
    assert "org/repo" in str(caught.value)
    assert not list(tmp_path.rglob("*escaped*"))
    server.fault = None
    assert sources.resolve("hf://org/repo").classes


def test_a_half_file_in_the_hubs_cache_is_downloaded_again(server, caplog):
    server.fault = "half"
    with pytest.raises((OSError, ValueError), match="org/repo"):
        sources.resolve("hf://org/repo")
    server.fault = None
    assert sources.resolve("hf://org/repo").classes
    assert "damaged: it is downloaded again" in caplog.text


@pytest.mark.parametrize(
    ("method", "hang_ups"),
    # Whether the Hub can be reached is the first question of a download.
    [("HEAD", 2), ("GET", 1)],
)
def test_a_download_that_is_hung_up_is_asked_again(server, method, hang_ups):
    server.method, server.hang_ups = method, hang_ups
    assert sources.resolve("hf://org/repo").classes
    assert server.hang_ups == 0


def test_a_cached_file_that_is_hung_up_is_asked_again(server):
    sources.resolve("hf://org/repo")
    server.hang_ups = 1
    assert sources.resolve("hf://org/repo").classes
    assert server.hang_ups == 0


def test_a_download_that_breaks_off_after_a_hang_up_says_so(server, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    server.hang_ups, server.fault = 2, "cut"
    with pytest.raises(OSError, match="broke off .* the next call resumes it"):
        sources.resolve("hf://org/repo")


def test_the_cached_file_will_do_if_the_server_hangs_up_again(server):
    sources.resolve("hf://org/repo")
    server.hang_ups = 1000
    assert sources.resolve("hf://org/repo").classes
    assert server.hang_ups < 1000


def test_a_server_that_only_hangs_up_is_one_sentence(server):
    server.hang_ups = 1000
    with pytest.raises(ConnectionError, match=r"reached \(Remote.* of org/repo is not"):
        sources.resolve("hf://org/repo")


def test_a_server_that_sends_next_to_nothing_is_given_up(server, monkeypatch):
    monkeypatch.setattr(guards, "SECONDS", 0.5)
    server.fault = "slow"
    with pytest.raises(OSError, match=r"stalled: The server sent \d+ bytes"):
        sources.resolve("hf://org/repo")
