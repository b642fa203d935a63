"""Jobs: what runs, live; adding a URL or a file, separating a track, cancelling, trying again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Response, jsonify, request
from werkzeug.exceptions import BadRequest, NotFound, ServiceUnavailable

from demixr_daemon.errors import SettingError
from demixr_daemon.jobs.view import Work
from demixr_daemon.web.feed import Feed, snapshot
from demixr_daemon.web.uploads import Uploads

_LONGEST_URL = 2000
_MOST_TRACKS = 1000


def register(page: Blueprint, work: Work | None, feed: Feed | None, uploads: Uploads, models: tuple[str, ...]) -> None:
    """Add these pages to the blueprint; without a daemon they say that there is none."""

    def present() -> Work:
        if work is None:
            raise ServiceUnavailable("no daemon is running here; start `demixr run`")
        return work

    @page.get("/api/work")
    def jobs() -> Response:
        return jsonify(snapshot(present()))

    @page.get("/api/work/events")
    def events() -> Response:
        present()
        if feed is None or not feed.join():
            raise ServiceUnavailable("too many are listening; look again in a while")

        def stream() -> Iterator[str]:
            try:
                yield from feed.events()
            finally:
                feed.leave()

        answer = Response(stream(), mimetype="text/event-stream")
        answer.headers.update({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        return answer

    @page.post("/api/work/urls")
    def add_url() -> Response:
        keys = present().add([checked_url(text_of(payload(), "url"))])
        return jsonify(keys=keys)

    @page.post("/api/work/uploads")
    def upload() -> Response:
        daemon = present()
        uploads.tidy([row.source for row in daemon.rows(states=("done",))])
        path = uploads.take(request.args.get("name", ""), request.stream, request.content_length)
        return jsonify(keys=daemon.add([str(path)]))

    @page.post("/api/work/separate")
    def separate() -> Response:
        content = payload()
        ids, model = content.get("ids"), content.get("model", "")
        if not isinstance(ids, list) or not 0 < len(ids) <= _MOST_TRACKS or not all(type(number) is int for number in ids):
            raise BadRequest(f"ids: 1 to {_MOST_TRACKS} numbers of tracks")
        if not isinstance(model, str) or (model and model not in models):
            raise BadRequest(f"model: one of {', '.join(models)}, or none")
        return jsonify(keys=present().separate(ids, model=model))

    @page.post("/api/work/cancel")
    def cancel() -> Response:
        return changed(present().cancel(text_of(payload(), "key")))

    @page.post("/api/work/retry")
    def retry() -> Response:
        return changed(present().retry(text_of(payload(), "key")))

    def changed(done: bool) -> Response:
        if not done:
            raise NotFound("no such job, or it is past that")
        return jsonify(done=True)


def payload() -> dict[str, Any]:
    """The JSON object that was sent."""
    content = request.get_json(silent=True)
    if not isinstance(content, dict):
        raise BadRequest("a JSON object is expected")
    return content


def text_of(content: dict[str, Any], name: str) -> str:
    """One text of it."""
    text = content.get(name)
    if not isinstance(text, str) or not text.strip() or len(text) > _LONGEST_URL:
        raise BadRequest(f"{name}: a text of 1 to {_LONGEST_URL} characters")
    return text.strip()


def checked_url(text: str) -> str:
    """An http or https address, and nothing that a program could take for a path or an option.

    :raises SettingError: it is none.
    """
    try:
        url = urlsplit(text)
        valid = url.scheme in ("http", "https") and bool(url.hostname) and text.isprintable() and " " not in text
    except ValueError:
        valid = False
    if not valid:
        raise SettingError("not a link: it must begin with https:// or http://")
    return text


