"""Looking through the library, and listening: tracks, albums, covers, blocks of audio, waveforms, downloads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from beets.library import Item
from flask import Blueprint, Response, jsonify, request, send_file
from werkzeug.exceptions import BadRequest, Conflict, NotFound, RequestedRangeNotSatisfiable

from demixr_daemon.web import downloads, peaks
from demixr_daemon.web.catalogue import Catalogue, described
from demixr_daemon.web.covers import SIZES, Covers
from demixr_daemon.web.lanes import Lanes, OpenLanes, Sources, sources_of

BLOCK_SAMPLES = 1 << 15
"""Samples of a block of audio: 0.74 s at 44.1 kHz."""
_DAY_S = 86400


def register(page: Blueprint, catalogue: Catalogue, opened: OpenLanes, waveforms: peaks.Peaks, covers: Covers) -> None:
    """Add these pages to the blueprint."""

    def track(number: int) -> Item:
        item = catalogue.item(number)
        if item is None:
            raise NotFound("this track is not in the library any more")
        return item

    def sources(number: int, version: str = "") -> tuple[Item, Sources]:
        item = track(number)
        with catalogue.bound():
            found = sources_of(item)
        if version and version != found.version:
            raise Conflict("the stems of this track were made anew; open it again")
        return item, found

    @page.get("/api/tracks")
    def tracks() -> Response:
        return jsonify(catalogue.tracks(request.args.get("q", ""), **listing()))

    @page.get("/api/albums")
    def albums() -> Response:
        return jsonify(catalogue.albums(request.args.get("q", ""), **listing()))

    @page.get("/api/tracks/<int:number>")
    def one_track(number: int) -> Response:
        item, found = sources(number)
        with opened.of(found) as lanes:
            about = {"version": found.version, "lanes": lanes.names, "rate_hz": lanes.rate_hz, "samples": lanes.samples,
                     "float": lanes.is_float, "block_samples": BLOCK_SAMPLES, "derived": list(found.derived),
                     "span_samples": peaks.span_samples(lanes.samples)}  # fmt: skip
        return jsonify(described(item) | about)

    @page.get("/api/tracks/<int:number>/audio/<version>/<int:block>")
    def audio(number: int, version: str, block: int) -> Response:
        _, found = sources(number, version)
        with opened.of(found) as lanes:
            if block * BLOCK_SAMPLES >= lanes.samples:
                raise NotFound("the track ends before that")
            content = lanes.coded(block * BLOCK_SAMPLES, BLOCK_SAMPLES)
        answer = Response(content, mimetype="application/octet-stream")
        answer.headers["Cache-Control"] = "no-store"  # the player keeps what it needs; a long track must not fill the disk
        return answer

    @page.get("/api/tracks/<int:number>/peaks/<version>")
    def waveform(number: int, version: str) -> Response:
        _, found = sources(number, version)
        kept = waveforms.kept(found)
        answer = Response(waveforms.growing(found) if kept is None else kept, mimetype="application/octet-stream")
        answer.headers["Cache-Control"] = "no-store" if kept is None else f"private, max-age={_DAY_S}"
        return answer

    @page.get("/api/tracks/<int:number>/cover")
    def cover(number: int) -> Response:
        return picture(track(number))

    @page.get("/api/albums/<int:number>/cover")
    def album_cover(number: int) -> Response:
        album = catalogue.album(number)
        with catalogue.bound():
            item = album.items().get() if album is not None else None
        if item is None:
            raise NotFound("this album is not in the library any more")
        return picture(item)

    def picture(item: Item) -> Response:
        size = min(SIZES, key=lambda known: abs(known - request.args.get("size", SIZES[0], int)))
        with catalogue.bound():
            small = covers.of(item, size)
        # no content where there is no cover: most tracks have none, and a browser would log an error
        answer = Response(status=204) if small is None else Response(small, mimetype="image/jpeg")
        answer.headers["Cache-Control"] = f"private, max-age={_DAY_S}"
        return answer

    @page.get("/api/tracks/<int:number>/download/stems/<stem>")
    def stem(number: int, stem: str) -> Response:
        item, found = sources(number)
        path = {**found.files, **found.derived}.get(stem)
        if path is None:
            raise NotFound("this track has no such stem")
        name = downloads.file_name(item.artist, f"{item.title or item.filepath.stem} ({stem})", path.suffix)
        return send_file(path, as_attachment=True, download_name=name, conditional=True, max_age=0)

    @page.get("/api/tracks/<int:number>/download/set")
    def stem_set(number: int) -> Response:
        item, found = sources(number)
        name = downloads.file_name(item.artist, item.title or item.filepath.stem, "")
        answer = Response(downloads.zipped(found, name), mimetype="application/zip")
        answer.headers.set("Content-Disposition", "attachment", filename=f"{name} (stems).zip")
        return answer

    @page.get("/api/tracks/<int:number>/download/mix")
    def mix(number: int) -> Response:
        item, found = sources(number)
        faders = {lane: downloads.fader(text) for lane, text in request.args.items() if lane != "name"}
        lanes = Lanes(found)
        try:
            made = downloads.WavMix(lanes, faders)
            wanted = request.range
            span = wanted.range_for_length(made.bytes) if wanted is not None else None
            if wanted is not None and span is None:
                raise RequestedRangeNotSatisfiable(made.bytes)
            start, stop = span or (0, made.bytes)
        except BaseException:
            lanes.close()
            raise

        def content() -> Iterator[bytes]:
            yield from made.part(start, stop)

        answer = Response(content(), 206 if span else 200, mimetype="audio/wav")
        answer.call_on_close(lanes.close)
        kind = "instrumental" if request.args.get("name") == "instrumental" else "mix"
        name = downloads.file_name(item.artist, f"{item.title or item.filepath.stem} ({kind})", ".wav")
        answer.headers.set("Content-Disposition", "attachment", filename=name)
        answer.headers.update({"Accept-Ranges": "bytes", "Content-Length": str(stop - start)})
        if span:
            answer.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{made.bytes}"
        return answer


def listing() -> dict[str, Any]:
    """How a list was asked for."""
    try:
        start, rows = int(request.args.get("start", 0)), int(request.args.get("rows", 60))
    except ValueError:
        start = -1
        rows = 0
    if not 0 <= start <= 1_000_000 or not 0 < rows <= 200:
        raise BadRequest("start and rows are numbers; rows from 1 to 200")
    stems = request.args.get("stems", "")
    if stems not in ("", "with", "without"):
        raise BadRequest("stems: with, without, or nothing")
    return {"start": start, "rows": rows, "stems": stems, "sort": request.args.get("sort", "artist")}
