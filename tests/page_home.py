"""A library with stems made by the real `beet demix`, and the real daemon with its page, once for all tests of the page."""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mediafile
import numpy as np
import pytest
import requests
import soundfile

from tests.conftest import read
from tests.daemon_home import Home

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
SECONDS = {"Alpha": 14.0, "Beta": 3.0, "Tone": 12.0, HOSTILE: 1.0}
UPLOAD_MB = 4
TOKEN = "a token for tests 0123456789"


class Listening(Home):
    """A home whose page is open."""

    url = ""
    pid = 0

    def open(self) -> None:
        """Start the daemon, and wait for its page."""
        self.pid = self.start().pid
        self.wait(lambda: self.log.exists() and re.search(r"the page is at (\S+)", self.log.read_text()), 60)
        found = re.search(r"the page is at (\S+)", self.log.read_text())
        assert found
        self.url = found[1]

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(f"{self.url}{path}", timeout=60, **options)

    def post(self, path: str, content: object, **options: Any) -> requests.Response:
        return requests.post(f"{self.url}{path}", json=content, timeout=60, **options)

    def raw(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> tuple[int, bytes]:
        """A request as it is written: no client tidies its path or its headers."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)
        connection.putrequest(method, path, skip_host="Host" in (headers or {}))
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, content

    def id(self, title: str) -> int:
        found = self.get("api/tracks", params={"q": f'title:"{title}"'}).json()["rows"]
        assert len(found) == 1, found
        return int(found[0]["id"])

    def about(self, title: str) -> dict[str, Any]:
        content: dict[str, Any] = self.get(f"api/tracks/{self.id(title)}").json()
        return content

    def stem(self, title: str, stem: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """A stem of a track as it lies on the disk, (samples, 2)."""
        folder = self.fields("$stems_path", f"title:{title}")[0]
        return read(Path(folder) / f"{stem}.flac")

    def mixture(self, title: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """A track as it lies on the disk."""
        return read(Path(self.fields("$path", f"title:{title}")[0]))


def filled(home: Home) -> None:
    """Import songs, and separate one of them."""
    arriving = home.base / "arriving"
    for number, (title, seconds) in enumerate(SECONDS.items(), 1):
        name = title if title.isalnum() else "hostile"
        home.song(arriving / f"{name}.flac", title, album="Songs", track=number, seconds=seconds, seed=number)
    tone = 0.4 * np.sin(2 * np.pi * 440 * np.arange(round(SECONDS["Tone"] * 44100)) / 44100)
    tags = home.song(home.base / "tone.flac", "Tone", album="Songs", track=3, seconds=0.1)
    soundfile.write(arriving / "Tone.flac", np.stack([tone, tone], axis=1), 44100)
    old, new = mediafile.MediaFile(tags), mediafile.MediaFile(arriving / "Tone.flac")
    new.update({"title": old.title, "artist": old.artist, "album": old.album, "track": 3})
    new.save()
    assert home.beet("import", arriving).returncode == 0
    answer = home.beet("demix", "title:alpha")
    assert answer.returncode == 0, answer.stderr


@pytest.fixture(scope="session")
def listening(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Iterator[Listening]:
    """The page of a library with one track with stems, and others without."""
    home = Listening(tmp_path_factory.mktemp("page") / "home", weights, web=f"port: 0, upload_mb: {UPLOAD_MB}")
    try:
        filled(home)
        home.open()
        yield home
    finally:
        home.end()


@contextmanager
def beet_web(listening: Listening, folder: Path) -> Iterator[tuple[str, int]]:
    """The same library on beets' own server: its address, and its process."""
    port = free_port()
    config = folder / "config.yaml"
    text = (listening.base / "config.yaml").read_text().replace("plugins: demix", "plugins: demix web")
    config.write_text(f"{text}web:\n  port: {port}\n")
    process = subprocess.Popen([sys.executable, "-m", "beets", "-c", str(config), "web"], env=listening.environment(),
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        listening.wait(lambda: _answers(f"{url}/stats"), 60)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait(20)


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.ConnectionError:
        return False


def free_port() -> int:
    """A port that nobody listens on."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def demixr_web(listening: Listening, port: int = 0) -> tuple[subprocess.Popen[str], str]:
    """The page alone, in a process of its own; its address."""
    process = subprocess.Popen([sys.executable, "-m", "demixr_daemon", "web", "--port", str(port)], env=listening.environment(),
                               stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert process.stdout is not None
    return process, process.stdout.readline().split()[-1]


def jobs(page: Listening) -> dict[str, dict[str, Any]]:
    """The jobs by key."""
    return {job["key"]: job for job in json.loads(page.get("api/work").content)["jobs"]}
