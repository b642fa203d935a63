"""A real HTTP server on 127.0.0.1 that serves media well, badly, and not at all."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Page:
    """What a path answers with."""

    body: bytes = b""
    kind: str = "audio/mpeg"
    statuses: list[int] = field(default_factory=list)
    """What to answer with first, before it serves."""
    break_off: int = 0
    """How many of the next answers break off half-way through what they promised."""
    rate: int = 0
    """Bytes a second; 0 is at once."""
    endless: bool = False
    """Say no length, and repeat the body for ever."""
    careless: bool = False
    """Answer what is asked for from beyond the end with nothing, instead of saying that there is nothing."""
    hangs: bool = False
    """Take the request and never answer."""


@dataclass
class Request:
    """What was asked, and how it went."""

    path: str
    range: str | None
    cookie: str | None = None
    sent: int = 0
    left: bool = False
    """The client went away before the end."""


class MediaServer:
    """Pages by path, and a log of all requests."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.pages: dict[str, Page] = {}
        self.requests: list[Request] = []
        self.closing = threading.Event()

    def add(self, path: str, body: bytes = b"", **how: object) -> str:
        """Serve a page; its URL."""
        self.pages[path] = Page(body, **how)  # type: ignore[arg-type]
        return f"{self.base}{path}"

    def of(self, path: str) -> list[Request]:
        """The requests for a path that got a body, or were to get one."""
        return [request for request in self.requests if request.path == path]


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Until it is so; a minute at most."""
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"waited in vain for {what}")


@contextmanager
def serving() -> Iterator[MediaServer]:
    """A server for as long as the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            request = Request(self.path, self.headers.get("Range"), self.headers.get("Cookie"))
            media.requests.append(request)
            self.close_connection = True
            try:
                self.answer(request, media.pages.get(self.path))
            except (BrokenPipeError, ConnectionResetError):
                request.left = True

        def answer(self, request: Request, page: Page | None) -> None:
            if page is None or page.statuses:
                self.send_error(page.statuses.pop(0) if page else 404)
                return
            if page.hangs:
                self.rfile.read(1)  # until the client leaves
                request.left = True
                return
            start = int(re.sub(r"\D", "", (request.range or "0").split("-")[0]))
            body = page.body[start:]
            if start and not body and not page.careless:
                self.send_error(416)
                return
            self.send_response(206 if request.range else 200)
            self.send_header("Content-Type", page.kind)
            self.send_header("Connection", "close")
            if not page.endless:
                self.send_header("Content-Length", str(len(body)))
            if request.range:
                self.send_header("Content-Range", f"bytes {start}-{len(page.body) - 1}/{len(page.body)}")
            self.end_headers()
            if page.break_off and len(body) > 1:
                body, page.break_off = body[: len(body) // 2], page.break_off - 1
            self.send(request, body, page)

        def send(self, request: Request, body: bytes, page: Page) -> None:
            step = max(page.rate // 20, 1) if page.rate else 1 << 16
            while True:
                for start in range(0, len(body), step):
                    self.wfile.write(body[start : start + step])
                    request.sent += len(body[start : start + step])
                    if page.rate and media.closing.wait(step / page.rate):
                        return
                if not page.endless or media.closing.is_set():
                    return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    media = MediaServer(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield media
    finally:
        media.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
