"""The blueprint put together, as an application of its own, and the server that serves it.

The server is cheroot: it reads a request's body only as the application asks for it, so that an upload is refused before it is
sent and never held in memory; it has one thread a request and keeps idle connections out of them.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import platformdirs
from beets.library import Library
from cheroot.ssl.builtin import BuiltinSSLAdapter
from cheroot.wsgi import Server
from flask import Blueprint, Flask, Response, jsonify, request, send_from_directory
from werkzeug.exceptions import HTTPException, NotFound, Unauthorized

from demixr_daemon.errors import AudioError, BusyError, DemixrError, JobsError, LibraryError, OutputError, SettingError
from demixr_daemon.jobs.view import Work
from demixr_daemon.web import guard, music, work
from demixr_daemon.web.catalogue import Catalogue
from demixr_daemon.web.covers import Covers
from demixr_daemon.web.feed import Feed
from demixr_daemon.web.lanes import OpenLanes
from demixr_daemon.web.peaks import Peaks
from demixr_daemon.web.settings import WebSettings
from demixr_daemon.web.uploads import TooLarge, Uploads

STATIC = Path(__file__).parent / "static"
_OPEN = ("open", "static", "login")
"""What is shown to who does not know the token yet: the page without anything of the library."""
_LONGEST_BODY = 1 << 16
_THREADS = 64
_WAITING = 256
_STATUS: dict[type[DemixrError], int] = {TooLarge: 413, SettingError: 400, AudioError: 422, BusyError: 503, LibraryError: 503,
                                         JobsError: 503, OutputError: 507}  # fmt: skip

mimetypes.add_type("text/javascript", ".js")
mimetypes.add_type("font/woff2", ".woff2")


def create_page(
    lib: Library, settings: WebSettings, jobs: Work | None = None, models: Sequence[str] = (), *, state: Path | None = None
) -> Blueprint:
    """The page as a blueprint, to be mounted anywhere.

    :param jobs: the daemon's; without it there is only listening.
    :param models: what a track can be separated with.
    :param state: where uploads are kept; the platform's data folder by default.
    """
    page = Blueprint("demixr", __name__)
    cache = platformdirs.user_cache_path("demixr")
    feed = Feed(jobs) if jobs is not None else None
    uploads = Uploads((state or platformdirs.user_data_path("demixr")) / "uploads", settings.upload_mb << 20)
    catalogue = Catalogue(lib)

    @page.before_request
    def watch() -> None:
        endpoint = (request.endpoint or "").rpartition(".")[2]
        guard.check_host(request, settings.hosts)
        guard.check_origin(request)
        if endpoint != "upload":
            request.max_content_length = _LONGEST_BODY
        if endpoint not in _OPEN:
            guard.check_token(request, settings.token)

    @page.after_request
    def seal(answer: Response) -> Response:
        if answer.status_code in (413, 401, 403, 421) and request.method == "POST":
            answer.headers["Connection"] = "close"  # what was not read of the body is not read at all
        return guard.seal(answer)

    @page.get("/", endpoint="open")
    def front() -> Response:
        answer = send_from_directory(STATIC, "index.html", max_age=0)
        given = request.args.get("token", "")
        if settings.token and guard.same(given, settings.token):
            guard.remember(answer, given, secure=request.is_secure)
        return answer

    @page.get("/static/<path:name>")
    def static(name: str) -> Response:
        return send_from_directory(STATIC, name, max_age=0)

    @page.post("/api/login")
    def login() -> Response:
        given = work.text_of(work.payload(), "token")
        if not settings.token or not guard.same(given, settings.token):
            raise Unauthorized("that is not the token; it is in the settings, demix.daemon.web.token")
        answer = jsonify(done=True)
        guard.remember(answer, given, secure=request.is_secure)
        return answer

    @page.get("/api/state")
    def about() -> Response:
        tracks, with_stems = catalogue.size()
        return jsonify(tracks=tracks, with_stems=with_stems, work=jobs is not None, models=list(models),
                       upload_mb=settings.upload_mb if jobs is not None else 0)  # fmt: skip

    music.register(page, catalogue, OpenLanes(), Peaks(cache / "peaks"), Covers(cache / "covers"))
    work.register(page, jobs, feed, uploads, tuple(models))
    page.register_error_handler(DemixrError, told)
    page.register_error_handler(HTTPException, refused)
    return page


def create_app(
    lib: Library, settings: WebSettings | None = None, jobs: Work | None = None, models: Sequence[str] = (), **more: Any
) -> Flask:
    """The page as an application of its own; the same parameters as :func:`create_page`."""
    app = Flask("demixr_daemon.web", static_folder=None)
    app.register_blueprint(create_page(lib, settings or WebSettings(), jobs, models, **more))
    app.after_request(guard.seal)
    app.register_error_handler(404, refused)
    app.register_error_handler(405, refused)
    return app


def told(error: DemixrError) -> tuple[Response, int]:
    """An error of ours as JSON: one line that says what to do."""
    status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)
    return jsonify(error=str(error)), status


def refused(error: HTTPException) -> tuple[Response, int]:
    """An error of HTTP as JSON."""
    if isinstance(error, NotFound) and error.description == NotFound.description:
        error.description = "there is no such thing here"
    return jsonify(error=error.description), error.code or 500


class AddressTaken(SettingError):
    """Another program listens there."""


class PageServer:
    """The application on its address. :meth:`run` blocks until :meth:`stop` is called from another thread.

    :raises SettingError: the address cannot be had, or the certificate cannot be read.
    """

    def __init__(self, app: Flask, settings: WebSettings) -> None:
        self._server = Server((settings.host, settings.port), app, numthreads=_THREADS, request_queue_size=_WAITING,
                              server_name="demixr", timeout=20, shutdown_timeout=3)  # fmt: skip
        self._server.max_request_body_size = (settings.upload_mb << 20) + _LONGEST_BODY
        self._server.max_request_header_size = 1 << 16
        if settings.certificate:
            try:
                self._server.ssl_adapter = BuiltinSSLAdapter(settings.certificate, settings.private_key)
            except OSError as error:  # ssl's own are among them
                raise SettingError(f"demix.daemon.web.certificate: {error}; check certificate and private_key") from error
        try:
            self._server.prepare()
        except OSError as error:
            raise AddressTaken(f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}; "
                               "choose another demix.daemon.web.port") from error  # fmt: skip
        host, port = self._server.bind_addr[:2]
        shown = f"[{host}]" if ":" in str(host) else host
        self.url = f"{'https' if settings.certificate else 'http'}://{shown}:{port}/"

    def run(self) -> None:
        """Serve until stopped."""
        self._server.serve()

    def stop(self) -> None:
        """Stop serving, when the streams have ended."""
        self._server.stop()
