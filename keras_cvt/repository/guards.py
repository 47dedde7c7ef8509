"""Guards around huggingface_hub's requests, against servers that misbehave."""

import contextlib
import importlib
import itertools
import re
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

# huggingface_hub uses these headers as names of files in its cache.
_NAME_HEADERS = ("etag", "x-linked-etag", "x-repo-commit")
_NAME = re.compile(r'(W/)?"?[\w.+=:-]{1,200}"?')
# A download that is slower than this for so long has stalled.
BYTES_PER_SECOND = 1024
SECONDS = 60.0
# More redirects than this in one download lead nowhere.
_MOST_REDIRECTS = 50
_HOOKS = threading.Lock()


class StalledError(OSError):
    """A server sends next to nothing."""


class UnsafeNameError(OSError):
    """A server wants a file to be kept outside the Hub's cache."""


class RedirectError(OSError):
    """A server redirects without an end, or to an address that is not the web's."""


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Check every answer that huggingface_hub gets inside the block.

    Its client is shared by the whole process. So other threads' answers are checked
    too, which does no harm.

    Raises:
        UnsafeNameError: If a header could lead out of the cache.
        StalledError: If a body arrives slower than `BYTES_PER_SECOND` for `SECONDS`.
        RedirectError: If redirects lead nowhere. huggingface_hub before 1.33 follows
            them for ever.
    """
    from huggingface_hub.utils import get_session

    client = get_session()
    redirects, thread = itertools.count(1), threading.get_ident()
    http: Any = importlib.import_module(type(client).__module__.split(".")[0])

    class Watched(http.SyncByteStream):
        def __init__(self, stream):
            self.stream = stream

        def __iter__(self):
            start, received, total = time.monotonic(), 0, 0
            for part in self.stream:
                received, total = received + len(part), total + len(part)
                seconds = time.monotonic() - start
                if seconds > SECONDS:
                    if received < BYTES_PER_SECOND * seconds:
                        raise StalledError(
                            f"The server sent {received} bytes in {seconds:.0f} s, "
                            f"{total} in all"
                        )
                    start, received = time.monotonic(), 0
                yield part

        def close(self):
            self.stream.close()

    def check(response: Any) -> None:
        for name in _NAME_HEADERS:
            value = response.headers.get(name)
            if value is not None and not _safe(value):
                raise UnsafeNameError(
                    f"The server's header {name} is not a file name: {value!r:.100}"
                )
        if response.is_redirect and threading.get_ident() == thread:
            address = response.headers.get("location", "")
            if urlsplit(address).scheme not in ("", "http", "https"):
                raise RedirectError(f"The server redirects to {address!r:.100}")
            if next(redirects) > _MOST_REDIRECTS:
                raise RedirectError("The server redirects without an end")
        response.stream = Watched(response.stream)

    _set_hooks(client, lambda hooks: [*hooks, check])
    try:
        yield
    finally:
        _set_hooks(client, lambda hooks: [hook for hook in hooks if hook is not check])


def _set_hooks(client, change):
    # A new list: other threads may be going through the old one.
    with _HOOKS:
        hooks = client.event_hooks
        client.event_hooks = {**hooks, "response": change(hooks["response"])}


def _safe(value):
    return bool(_NAME.fullmatch(value)) and ".." not in value
