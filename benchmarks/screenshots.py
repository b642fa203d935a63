"""Pictures of the page: ``python -m benchmarks.screenshots FOLDER``.

A library of made songs is separated with the embedded model, the daemon serves its page, and Chromium shows it: on a desktop
and on a phone, dark and light, while it works, empty, and with errors. The README shows two of them.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mediafile
import numpy as np
import soundfile
from playwright.sync_api import Browser, Page, sync_playwright

from tests.made_song import made_mixture

_CONFIG = """\
directory: {base}/music
library: {base}/library.db
plugins: demix
import: {{copy: yes, autotag: no, quiet: yes}}
demix:
  daemon:
    state_dir: {base}/state
    min_free_mb: 1
    web: {{port: 0, token: "{token}"}}
"""
_LONG = "A Very Long Goodbye to the Morning Train"
"""Long enough to be seen while it is separated."""
_LOST = "Low Tide"
"""A track whose file is gone."""
_SONGS = [  # artist, album, year, titles
    ("Night Ferry", "Saltwater", 2024, ("Harbour Lights", "Slow Signal", "Under Glass")),
    ("Ada & the Loops", "Kitchen Tapes", 2022, ("Paper Moons", "Half Asleep")),
    ("Río Seco", "Desierto", 2019, ("Polvo y Cielo", "La Última Luz")),
    ("Common Thread", "Everything That Rises", 2021, (_LONG,)),
    ("Kiln", "Ember", 2023, (_LOST, "Cinder Path")),
]
_SEPARATED = ("Harbour Lights", "Paper Moons")
_TOKEN = "a token for pictures"
_QUALITY = 70
_FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
          "--disable-background-networking", "--disable-component-update",
          "--autoplay-policy=no-user-gesture-required"]  # fmt: skip
_DESKTOP = {"viewport": {"width": 1280, "height": 800}, "device_scale_factor": 1.5}
_PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True, "is_mobile": True}


def main() -> int:
    """Make the pictures; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.screenshots", description=__doc__.split(":")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        parser.error("no chromium on this machine: apt install chromium, or set CHROMIUM")
    with tempfile.TemporaryDirectory() as place, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=_FLAGS)
        full, empty = Path(place, "full"), Path(place, "empty")
        with daemon(_library(full), full) as page:
            _pictures(browser, page.url, folder)
            _without_server(browser, page, folder)
        empty.mkdir()
        with daemon(_configured(empty, _TOKEN), empty) as page:
            shoot(browser, page.url, folder / "phone-token.jpg", _nothing, color_scheme="dark", **_PHONE)
            for name, options in (("desktop", _DESKTOP), ("phone", _PHONE)):
                url = f"{page.url}?token={_TOKEN}"
                shoot(browser, url, folder / f"{name}-empty.jpg", _nothing, color_scheme="light", **options)
        browser.close()
    return 0


def _pictures(browser: Browser, url: str, folder: Path) -> None:
    for name, options in (("desktop", _DESKTOP), ("phone", _PHONE)):
        for scheme in ("dark", "light"):
            shoot(browser, url, folder / f"{name}-{scheme}.jpg", _listening, color_scheme=scheme, **options)
    shoot(browser, url, folder / "phone-library.jpg", _nothing, color_scheme="dark", **_PHONE)
    shoot(browser, url, folder / "desktop-albums.jpg", _albums, color_scheme="light", **_DESKTOP)
    shoot(browser, url, folder / "desktop-help.jpg", lambda page: page.keyboard.press("?"), color_scheme="dark", **_DESKTOP)
    shoot(browser, url, folder / "desktop-work.jpg", _working, color_scheme="dark", **_DESKTOP)
    shoot(browser, url, folder / "phone-work.jpg", _work, color_scheme="light", **_PHONE)
    shoot(browser, url, folder / "desktop-query-error.jpg", _unknown_query, color_scheme="dark", **_DESKTOP)
    shoot(browser, url, folder / "phone-query-error.jpg", _unknown_query, color_scheme="light", **_PHONE)
    shoot(browser, url, folder / "desktop-track-missing.jpg", _missing, color_scheme="light", **_DESKTOP)
    shoot(browser, f"{url}#track=9999", folder / "phone-track-missing.jpg", _nothing, color_scheme="dark", **_PHONE)
    shoot(browser, url, folder / "desktop-upload-refused.jpg", _refused, color_scheme="light", **_DESKTOP)
    shoot(browser, url, folder / "phone-upload-refused.jpg", _refused, color_scheme="dark", **_PHONE)


def _without_server(browser: Browser, page: Daemon, folder: Path) -> None:
    with (window(browser, page.url, color_scheme="dark", **_DESKTOP) as desktop,
          window(browser, page.url, color_scheme="light", **_PHONE) as phone):  # fmt: skip
        for one in (desktop, phone):
            _listening(one)
        page.stop()
        for one, name in ((desktop, "desktop"), (phone, "phone")):
            one.wait_for_selector("#gone:visible")
            picture(one, folder / f"{name}-server-gone.jpg")


def _nothing(page: Page) -> None:
    """As it opens."""


def _listening(page: Page) -> None:
    page.locator("#rows .open", has_text="Harbour Lights").click()
    page.wait_for_selector("body.playing")
    page.wait_for_timeout(1500)
    wave = page.locator(".wave").first.bounding_box()
    assert wave
    page.mouse.click(wave["x"] + 0.42 * wave["width"], wave["y"] + 20)
    page.get_by_role("button", name="No vocals").click()


def _albums(page: Page) -> None:
    page.get_by_role("button", name="Albums").click()
    page.locator("#mini").hover()


def _unknown_query(page: Page) -> None:
    page.fill("#query", "path:/music")
    page.wait_for_selector("#library-notice.bad:visible")


def _missing(page: Page) -> None:
    page.locator("#rows .open", has_text=_LOST).click()
    page.wait_for_selector(".hero.refused")


def _work(page: Page) -> None:
    page.get_by_role("tab", name="Work").click()


def _refused(page: Page) -> None:
    _work(page)
    page.set_input_files("#files", {"name": "Shopping list.flac", "mimeType": "audio/flac", "buffer": b"bread, milk"})
    page.wait_for_selector("#uploads [role=alert]")


def _working(page: Page) -> None:
    page.locator("#rows .row", has_text=_LOST).hover()
    page.get_by_role("button", name=f"Separate: {_LOST}").click()
    page.locator("#rows .open", has_text=_LONG).click()
    page.wait_for_selector("body.playing")
    page.get_by_role("button", name="Separate", exact=True).click()
    _work(page)
    page.fill("#url", "http://127.0.0.1:9/no-such-song.mp3")
    page.get_by_role("button", name="Add", exact=True).click()
    page.wait_for_selector(".job.running .state:has-text('left')", timeout=120_000)


@contextmanager
def window(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """The page in a window of its own."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("html[data-ready]")
    yield page
    context.close()


def picture(page: Page, path: Path) -> None:
    """One picture, once all has moved into place."""
    page.wait_for_timeout(900)
    page.screenshot(path=path, type="jpeg", quality=_QUALITY)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB", flush=True)


def shoot(browser: Browser, url: str, path: Path, prepare: Callable[[Page], object], **options: Any) -> None:
    """One picture of the page in a new window."""
    with window(browser, url, **options) as page:
        prepare(page)
        picture(page, path)


def _configured(base: Path, token: str = "") -> dict[str, str]:
    (base / "config.yaml").write_text(_CONFIG.format(base=base, token=token), "utf-8")
    return os.environ | {"BEETSDIR": str(base), "PYTHONUTF8": "1", "XDG_CACHE_HOME": str(base / "cache")}


def _library(base: Path) -> dict[str, str]:
    seed = 0
    for artist, album, year, titles in _SONGS:
        (base / "arriving" / album).mkdir(parents=True)
        for number, title in enumerate(titles, 1):
            seed += 1
            seconds = 180 if title == _LONG else 24 + 4 * (seed % 5) + seed
            audio = made_mixture(seconds, seed=seed)
            swell = np.interp(np.arange(len(audio)) / len(audio), [0, 0.06, 0.3, 0.34, 0.5, 0.52, 0.94, 1],
                              [0.1, 0.7, 0.9, 0.4, 0.55, 1, 1, 0.05])  # fmt: skip
            track = base / "arriving" / album / f"{number:02} {seed}.flac"
            soundfile.write(track, audio * swell[:, None], 44100)
            tags = mediafile.MediaFile(track)
            tags.update({"artist": artist, "albumartist": artist, "album": album, "year": year, "title": title,
                         "track": number})  # fmt: skip
            tags.save()
    environment = _configured(base)
    beet = [sys.executable, "-m", "beets"]
    subprocess.run([*beet, "import", str(base / "arriving")], env=environment, check=True, stdout=subprocess.DEVNULL)
    query = [word for title in _SEPARATED for word in (f"title:{title}", ",")][:-1]
    subprocess.run([*beet, "demix", "-y", *query], env=environment, check=True)
    lost = subprocess.run([*beet, "ls", "-p", f"title:{_LOST}"], env=environment, check=True, capture_output=True, text=True)
    Path(lost.stdout.strip()).unlink()
    return environment


class Daemon:
    """The daemon in a process of its own, and the address of its page."""

    def __init__(self, environment: dict[str, str], base: Path) -> None:
        log = base / "daemon.log"
        command = [sys.executable, "-m", "demixr_daemon", "run"]
        with log.open("wb") as out:
            self._process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
        while not (found := re.search(r"the page is at (\S+)", log.read_text("utf-8"))):
            if self._process.poll() is not None:
                raise SystemExit(log.read_text("utf-8"))
            time.sleep(0.1)
        self.url = found[1]

    def stop(self) -> None:
        """End it, if it runs."""
        self._process.terminate()
        self._process.wait(30)


@contextmanager
def daemon(environment: dict[str, str], base: Path) -> Iterator[Daemon]:
    """Run the daemon meanwhile."""
    running = Daemon(environment, base)
    try:
        yield running
    finally:
        running.stop()


if __name__ == "__main__":
    sys.exit(main())
