"""The page in a real Chromium, driving the real daemon; what is heard is compared with the stems, sample by sample."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from demixr_daemon import library, stems
from demixr_daemon.web.catalogue import opened
from tests.conftest import read
from tests.page_home import HOSTILE, SECONDS, UPLOAD_MB, Listening, beet_web, demixr_web, free_port, jobs, listening

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright: no browser tests without it")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome") or ""
if not CHROMIUM and not os.environ.get("CI"):
    pytest.skip("no chromium on this machine: apt install chromium, or set CHROMIUM", allow_module_level=True)

__all__ = ["listening"]

FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--autoplay-policy=no-user-gesture-required",
         "--js-flags=--expose-gc"]  # fmt: skip
ASKED = re.compile(r"/api/(tracks/\d+|state)$")
AXE = Path(__file__).parent / "vendor" / "axe.min.js"

# What goes to the loudspeakers is recorded beside it, in the audio thread.
RECORDER = """
registerProcessor('recorder', class extends AudioWorkletProcessor {
  process([input]) {
    if (input.length) this.port.postMessage([input[0].slice(), (input[1] ?? input[0]).slice()]);
    return true;
  }
});
"""
TAP = """
(() => {
  const connect = AudioNode.prototype.connect;
  window.recorded = [];
  const recorder_url = URL.createObjectURL(new Blob([RECORDER], {type: 'text/javascript'}));
  AudioNode.prototype.connect = function (to, ...more) {
    if (to instanceof AudioDestinationNode) {
      to.context.audioWorklet.addModule(recorder_url).then(() => {
        const stereo = {numberOfOutputs: 0, channelCount: 2, channelCountMode: 'explicit'};
        const recorder = new AudioWorkletNode(to.context, 'recorder', stereo);
        recorder.port.onmessage = ({data}) => window.recorded.push(data);
        connect.call(this, recorder);
      });
    }
    return connect.call(this, to, ...more);
  };
  window.take = () => {
    const parts = window.recorded;
    window.recorded = [];
    const out = new Float32Array(parts.length * 256);
    parts.forEach((sides, k) => sides.forEach((side, c) => side.forEach((v, i) => { out[k * 256 + 2 * i + c] = v; })));
    let text = '';
    const bytes = new Uint8Array(out.buffer);
    for (let k = 0; k < bytes.length; k += 32768) text += String.fromCharCode(...bytes.subarray(k, k + 32768));
    return btoa(text);
  };
})();
"""
TAP = TAP.replace("RECORDER", json.dumps(RECORDER))
Sound = NDArray[np.float64]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def window(chromium: Any, listening: Listening) -> Iterator[Callable[..., Any]]:
    """Open the page: ``window("#track=1", viewport=...)``. No script may fail and no console error appear.

    ``url`` opens it elsewhere. ``routed``: its requests go through the driver from the first on, for tests that answer some of
    them: Chromium lets pass what is asked while that begins.
    """
    wrong: list[str] = []
    contexts = []

    def open_page(link: str = "", *, url: str = "", routed: bool = False, **options: Any) -> Any:
        # the recorder, and waiting for an expression, are what the page's policy forbids; one test keeps it
        context = chromium.new_context(**({"viewport": {"width": 1280, "height": 800}, "bypass_csp": True} | options))
        contexts.append(context)
        if options.get("bypass_csp", True):
            context.add_init_script(TAP)
        if routed:
            context.route("**/nothing", lambda route: route.continue_())
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text)
                if message.type == "error" and "Failed to load resource" not in message.text else None)  # fmt: skip
        page.goto(f"{url or listening.url}{link}")
        page.wait_for_selector("html[data-ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture
def page(window: Callable[..., Any], request: pytest.FixtureRequest) -> Any:
    return window(routed="routed" in request.keywords)


def start(page: Any, title: str) -> None:
    page.fill("#query", "")
    page.locator("#rows .open").filter(has_text=title).first.click()
    page.wait_for_function("document.body.classList.contains('playing')")
    page.wait_for_function("window.recorded.length > 20")


def heard(page: Any, seconds: float, skip_s: float = 0.25) -> Sound:
    """What is heard from now on, once faders have settled; (samples, 2)."""
    page.wait_for_timeout(1000 * skip_s)
    page.evaluate("window.take()")
    page.wait_for_function(f"window.recorded.length > {round(seconds * 44100 / 128)}")
    sound = np.frombuffer(base64.b64decode(page.evaluate("window.take()")), "<f4").reshape(-1, 2)
    return sound[: round(seconds * 44100)].astype(np.float64)


def place(sound: Sound, reference: Sound) -> int:
    """Where in the reference this sound is, by correlation of its first tenth of a second."""
    piece = sound[:4410].sum(axis=1)
    whole = reference.sum(axis=1)
    size = 1 << int(np.ceil(np.log2(len(whole) + len(piece))))
    found = np.fft.irfft(np.fft.rfft(whole, size) * np.conj(np.fft.rfft(piece, size)), size)[: len(whole) - len(piece)]
    energy = np.sqrt(np.convolve(whole**2, np.ones(len(piece)), "valid")[: len(found)] + 1e-9)
    return int(np.argmax(found / energy))


def assert_is(sound: Sound, reference: Sound) -> int:
    """The sound is a part of the reference, to within a rounding of 16 bits; where."""
    assert np.abs(sound).max() > 0.01
    at = place(sound, reference)
    expected = reference[at : at + len(sound)]
    assert len(expected) == len(sound)
    assert np.abs(sound - expected).max() < 1e-4
    return at


# ---- listening


def test_a_track_plays_as_it_is(page: Any, listening: Listening) -> None:
    """All stems together are the track, to the sample."""
    start(page, "Alpha")
    assert page.locator("#now-title").text_content() == "Alpha"
    assert [lane.text_content() for lane in page.locator(".lane h3").all()] == ["Vocals", "Drums", "Bass", "Other"]
    assert_is(heard(page, 0.7), listening.mixture("Alpha"))
    page.keyboard.press("Space")
    page.wait_for_function("!document.body.classList.contains('playing')")
    assert not heard(page, 0.2).any()
    page.keyboard.press("Space")
    assert_is(heard(page, 0.3), listening.mixture("Alpha"))


def test_muting_leaves_only_the_others(page: Any, listening: Listening) -> None:
    start(page, "Alpha")
    for number, name in enumerate(("vocals", "drums", "bass"), 1):
        page.keyboard.press(str(number))
        assert page.locator(f"[data-lane={name}] .m").get_attribute("aria-pressed") == "true"
    assert_is(heard(page, 0.5), listening.stem("Alpha", "other"))
    page.get_by_role("button", name="No vocals").click()
    assert_is(heard(page, 0.5), listening.mixture("Alpha") - listening.stem("Alpha", "vocals"))


@pytest.mark.parametrize("number", [1, 3])
def test_solo_leaves_one(window: Callable[..., Any], listening: Listening, number: int) -> None:
    page = window()
    start(page, "Alpha")
    page.keyboard.press(f"Shift+Digit{number}")
    name = ("vocals", "drums", "bass", "other")[number - 1]
    assert page.locator(f"[data-lane={name}] .s").get_attribute("aria-pressed") == "true"
    assert_is(heard(page, 0.5), listening.stem("Alpha", name))


def test_volume_and_pan(page: Any, listening: Listening) -> None:
    start(page, "Alpha")
    page.keyboard.press("Shift+Digit2")
    page.get_by_label("Drums volume").fill("50")
    page.get_by_label("Drums pan").fill("-100")
    drums = listening.stem("Alpha", "drums")
    assert_is(heard(page, 0.5), 0.5 * np.stack([drums.sum(axis=1), 0 * drums[:, 0]], axis=1))


def test_stems_stay_together_after_ten_seeks(page: Any, listening: Listening) -> None:
    """Were one of them a sample late, their sum would not be the track."""
    start(page, "Alpha")
    mixture = listening.mixture("Alpha")
    box = page.locator("[data-lane=bass] .wave").bounding_box()
    for part in np.random.default_rng(5).uniform(0.02, 0.88, 10):
        page.mouse.click(box["x"] + part * box["width"], box["y"] + 20)
        at = assert_is(heard(page, 0.25, skip_s=0.15), mixture)
        assert 0 <= at / 44100 - part * SECONDS["Alpha"] < 1.5


def test_a_loop_is_exact(window: Callable[..., Any], listening: Listening) -> None:
    """Round and round, without a sample too many or too few."""
    first, last = 100_003, 122_057
    page = window(f"#track={listening.id('Alpha')}&loop={first}-{last}")
    page.wait_for_selector("#region:visible")
    page.locator("#play").click()
    sound = heard(page, 2.0)
    mixture = listening.mixture("Alpha")
    at = place(sound[:2000], mixture)
    candidates = [place(sound[k : k + 4410], mixture) - k for k in range(0, 30_000, 3000)]
    at = max(set(candidates), key=candidates.count)
    expected = mixture[first + (at - first + np.arange(len(sound))) % (last - first)]
    assert np.abs(sound - expected).max() < 1e-4


def test_a_loop_is_marked_with_keys_and_the_ruler(page: Any) -> None:
    start(page, "Alpha")
    box = page.locator("#ruler").bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 12, steps=5)
    page.mouse.up()
    page.wait_for_selector("#region:visible")
    assert page.locator("#grip-a").get_attribute("aria-valuenow") == "4"
    page.locator("#grip-b").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#grip-b").get_attribute("aria-valuenow") == "9"
    page.locator("#grip-b").blur()
    page.keyboard.press("l")
    page.wait_for_selector("#region", state="hidden")


@pytest.mark.parametrize(("speed", "key"), [(0.5, 0), (1.5, 0), (1, 5)])
def test_speed_and_key_are_apart(window: Callable[..., Any], listening: Listening, speed: float, key: int) -> None:
    page = window(f"#track={listening.id('Tone')}&speed={speed}&key={key}")
    page.wait_for_function("document.querySelector('#now-title').textContent === 'Tone'")
    page.locator("#play").click()
    sound = heard(page, 1.5, skip_s=0.8)[:, 0]
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 1 << 18))
    loudest_hz = np.argmax(spectrum) * 44100 / (1 << 18)
    assert loudest_hz == pytest.approx(440 * 2 ** (key / 12), rel=0.01)
    position = "document.querySelector('#lanes').style.getPropertyValue('--at') * 12"
    before, blocks = page.evaluate(f"[{position}, (window.take(), 0)]")
    page.wait_for_function("window.recorded.length > 600")
    after, blocks = page.evaluate(f"[{position}, window.recorded.length]")
    assert (after - before) / (blocks * 128 / 44100) == pytest.approx(speed, abs=0.08)


def test_seeking_with_keys_and_screen_readers(page: Any) -> None:
    start(page, "Alpha")
    page.keyboard.press("Space")
    page.wait_for_function("!document.body.classList.contains('playing')")
    before = page.evaluate("document.querySelector('#lanes').style.getPropertyValue('--at') * 14")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowLeft")
    after = page.evaluate("document.querySelector('#lanes').style.getPropertyValue('--at') * 14")
    assert after - before == pytest.approx(4, abs=0.01)
    assert re.fullmatch(r"\d+ seconds of 14 seconds", page.locator("#cap").get_attribute("aria-valuetext"))
    page.keyboard.press("ArrowDown")
    assert page.locator("#volume").input_value() == "95"


def test_the_next_track_of_the_list_follows(page: Any, listening: Listening) -> None:
    page.select_option("#sort", "album")
    page.wait_for_function("document.querySelector('#rows b').textContent === 'Alpha'")
    start(page, "Beta")
    page.keyboard.press("n")
    page.wait_for_function("document.querySelector('#now-title').textContent === 'Tone'")
    page.keyboard.press("p")
    page.wait_for_function("document.querySelector('#now-title').textContent === 'Beta'")
    page.wait_for_function("document.querySelector('#now-title').textContent === 'Tone'")  # it is three seconds long


def test_a_mix_is_remembered_and_goes_with_a_link(window: Callable[..., Any], listening: Listening) -> None:
    page = window()
    start(page, "Alpha")
    page.get_by_label("Bass volume").fill("40")
    page.keyboard.press("1")
    page.locator("#share").click()
    link = page.evaluate("location.hash")
    page.reload()
    page.wait_for_selector("[data-lane=vocals].silent")
    assert page.get_by_label("Bass volume").input_value() == "40"
    other = window(link)  # another browser
    other.wait_for_selector("[data-lane=vocals].silent")
    assert other.get_by_label("Bass volume").input_value() == "40"
    download = other.locator("#download-list a", has_text="This mix").get_attribute("href")
    assert "vocals=0.000%2C0.00" in download
    other.keyboard.press("0")
    other.wait_for_selector("[data-lane=vocals].silent", state="detached")


def test_the_mix_that_is_heard_is_the_one_that_is_taken_away(page: Any, listening: Listening, tmp_path: Path) -> None:
    start(page, "Alpha")
    page.get_by_role("button", name="No vocals").click()
    page.locator("#downloads summary").click()
    with page.expect_download() as taken:
        page.locator("#download-list a", has_text="This mix").click()
    assert taken.value.suggested_filename == "Foo - Alpha (mix).wav"
    taken.value.save_as(tmp_path / "mix.wav")
    expected = listening.mixture("Alpha") - listening.stem("Alpha", "vocals")
    np.testing.assert_allclose(read(tmp_path / "mix.wav"), expected, atol=2e-5)


# ---- what goes wrong


def test_a_server_that_is_gone_comes_back(window: Callable[..., Any], listening: Listening) -> None:
    """It is told, what is there plays on, and the rest follows by itself."""
    port = free_port()
    process, url = demixr_web(listening, port)
    try:
        page = window(url=url)
        start(page, "Alpha")
        page.wait_for_timeout(1000)
        process.kill()
        process.wait(20)
        page.wait_for_selector("#gone:visible")
        page.fill("#query", "beta")
        page.wait_for_selector("#library-notice.bad:visible")
        page.locator("#query").blur()
        box = page.locator("[data-lane=bass] .wave").bounding_box()
        page.mouse.click(box["x"] + 0.8 * box["width"], box["y"] + 20)  # of this nothing is there
        page.wait_for_selector("#lanes.waiting")
        process, _ = demixr_web(listening, port)
        page.wait_for_selector("#gone", state="hidden")
        page.wait_for_function("document.querySelectorAll('#rows .row').length === 1")
        page.wait_for_selector("#lanes:not(.waiting)")
        assert_is(heard(page, 0.3), listening.mixture("Alpha"))
    finally:
        process.terminate()
        process.wait(90)


@pytest.mark.routed
def test_a_page_that_was_opened_without_its_server_begins_later(page: Any) -> None:
    page.route("**/api/state", lambda route: route.abort())
    page.reload()
    page.wait_for_selector("#library-notice.bad:visible")
    page.unroute("**/api/state")
    page.wait_for_selector("#rows .row")
    assert page.locator("#library-notice").is_hidden()
    assert page.locator("#tab-work").is_visible()


@pytest.mark.routed
def test_the_queue_waits_for_a_server_that_is_gone(page: Any) -> None:
    page.select_option("#sort", "album")
    page.wait_for_function("document.querySelector('#rows b').textContent === 'Alpha'")
    start(page, "Beta")
    left = page.locator("#queue-count").text_content()
    page.route(ASKED, lambda route: route.abort())
    page.wait_for_selector("#gone:visible")  # it is three seconds long
    assert page.locator("#now-title").text_content() == "Beta"
    assert page.locator("#queue-count").text_content() == left
    page.unroute(ASKED)
    page.wait_for_function("document.querySelector('#now-title').textContent === 'Tone'")
    page.wait_for_selector("body.playing")
    assert page.locator("#queue-count").text_content() == str(int(left) - 1)


@pytest.mark.routed
def test_a_queue_of_damaged_tracks_is_not_used_up(page: Any) -> None:
    start(page, "Alpha")
    for _ in range(4):
        page.get_by_role("button", name="Add to the queue: Tone").first.press("Enter")
    left = int(page.locator("#queue-count").text_content())
    page.route(ASKED, lambda route: route.fulfill(status=422, json={"error": "it is damaged"}))
    page.keyboard.press("n")
    page.wait_for_function("document.querySelectorAll('.toast.bad').length === 3")
    page.wait_for_timeout(500)
    assert page.locator(".toast.bad").count() == 3
    assert page.locator("#queue-count").text_content() == str(left - 3)
    assert page.locator("#now-title").text_content() == "Alpha"


@pytest.mark.routed
def test_a_failure_of_another_time_skips_nothing(page: Any, listening: Listening) -> None:
    """What is chosen while the track before it is looked up plays, whatever becomes of that."""
    start(page, "Alpha")
    following = page.evaluate("document.querySelector('#queue-rows b').textContent")
    chosen = next(title for title in ("Tone", "Beta") if title != following)
    held: list[Any] = []

    def hold(route: Any) -> None:
        held.append(route)

    lookup = f"**/api/tracks/{listening.id(following)}"
    page.route(lookup, hold)
    with page.expect_request(lookup):
        page.keyboard.press("n")
    page.locator("#rows .open", has_text=chosen).first.click()
    page.wait_for_function(f"document.querySelector('#now-title').textContent === '{chosen}'")
    held[0].fulfill(status=422, json={"error": "it is damaged"})
    page.wait_for_timeout(500)
    assert page.locator("#now-title").text_content() == chosen
    assert page.locator(".toast.bad").count() == 0


@pytest.mark.routed
def test_further_rows_wait_for_a_server_that_is_gone(page: Any) -> None:
    def many(route: Any) -> None:
        content = route.fetch().json()
        route.fulfill(json={"rows": 60 * content["rows"][:1], "more": True})

    page.route("**/api/tracks?*start=0&*", many)
    page.route("**/api/tracks?*start=60&*", lambda route: route.abort())
    page.reload()
    page.wait_for_function("document.querySelectorAll('#rows .row').length === 60")
    page.locator("#rows .row").last.scroll_into_view_if_needed()
    page.wait_for_selector("#gone:visible")
    assert page.locator("#rows .row").count() == 60
    with page.expect_response("**/api/tracks?*start=60&*"):
        page.unroute("**/api/tracks?*start=60&*")
    assert page.locator("#rows .row").count() == 60


@pytest.mark.routed
def test_a_waveform_is_asked_for_again(page: Any) -> None:
    page.route("**/peaks/**", lambda route: route.abort())
    start(page, "Alpha")
    page.wait_for_selector("#gone:visible")
    with page.expect_response("**/peaks/**") as answer:
        page.unroute("**/peaks/**")
    assert answer.value.ok


@pytest.mark.parametrize("width", [360, 1280])
def test_a_link_to_a_track_that_is_not_there(window: Callable[..., Any], width: int) -> None:
    page = window("#track=99999", viewport={"width": width, "height": 700})
    page.wait_for_selector(".hero.refused:visible")
    assert "not in the library" in page.locator("#hero-text").text_content()
    if width < 900:
        page.get_by_role("button", name="Back to the library").click()
    start(page, "Beta")
    assert page.locator("#hero").is_hidden()


def test_a_track_whose_file_is_gone_is_passed_over(page: Any, listening: Listening) -> None:
    listening.song(listening.base / "lost" / "Lost.flac", "Blost", album="Lost", seconds=1.0)
    assert listening.beet("import", listening.base / "lost").returncode == 0
    lost = Path(listening.fields("$path", "title:blost")[0])
    lost.unlink()
    try:
        page.reload()
        page.wait_for_selector("html[data-ready]")
        page.select_option("#sort", "title")
        page.locator("#rows .open", has_text="Blost").click()
        page.wait_for_selector(f".hero.refused:has-text('{lost.name}: No such file')")
        start(page, "Beta")
        page.keyboard.press("n")
        page.wait_for_selector(f".toast:has-text('{lost.name}')")
        page.wait_for_function("!['Beta', 'Blost'].includes(document.querySelector('#now-title').textContent)")
    finally:
        assert listening.beet("remove", "-f", "title:blost").returncode == 0


@pytest.mark.parametrize(("name", "size", "told"), [
    ("long.flac", (UPLOAD_MB << 20) + 1, f"larger than {UPLOAD_MB} MB"), ("film.mkv", UPLOAD_MB << 20, "not a kind of audio"),
    ("list.flac", 20, "not audio"),
])  # fmt: skip
def test_why_an_upload_is_refused_is_told(page: Any, name: str, size: int, told: str) -> None:
    page.get_by_role("tab", name="Work").click()
    page.set_input_files("#files", {"name": name, "mimeType": "audio/flac", "buffer": bytes(size)})
    page.wait_for_selector(f"#uploads [role=alert]:has-text('{told}')")


def test_a_file_can_be_dropped_anywhere(page: Any) -> None:
    dragged = page.evaluate_handle("(() => { const dragged = new DataTransfer();"
                                   " dragged.items.add(new File(['no audio'], 'list.flac')); return dragged; })()")  # fmt: skip
    page.dispatch_event("#deck", "dragenter", {"dataTransfer": dragged})
    page.wait_for_selector("#landing:visible")
    page.dispatch_event("#landing", "drop", {"dataTransfer": dragged})
    page.wait_for_selector("#uploads [role=alert]:visible")
    assert page.locator("#landing").is_hidden()


# ---- the library and work


def test_searching(page: Any) -> None:
    page.fill("#query", "title:^B")
    page.fill("#query", "alpha")
    page.wait_for_function("document.querySelectorAll('#rows .row').length === 1")
    assert page.locator("#rows .dots").get_attribute("aria-label") == "stems: vocals, drums, bass, other"
    page.fill("#query", "path:/etc")
    page.wait_for_selector("#library-notice.bad")
    page.fill("#query", "nothing like this")
    page.wait_for_selector("text=Nothing found")
    page.fill("#query", "")
    page.get_by_role("button", name="Albums").click()
    page.locator(".album", has_text="Songs").click()
    page.wait_for_function("document.querySelectorAll('#rows .row').length === 4")
    page.select_option("#stems", "without")
    page.wait_for_function("document.querySelectorAll('#rows .row').length === 3")


def test_a_script_in_a_title_is_text(page: Any) -> None:
    start(page, "<script>")
    page.wait_for_timeout(300)
    assert page.locator("#now-title").text_content() == HOSTILE
    assert page.title().startswith(HOSTILE)
    assert page.evaluate("document.querySelectorAll('#app img[src=x], #app script').length") == 0


def test_a_file_is_dropped_separated_and_played(page: Any, listening: Listening, tmp_path: Path) -> None:
    """From a file of one's own to its stems, without leaving the page."""
    song = listening.song(tmp_path / "mine.flac", "Dropped", seconds=2.0, seed=20)
    page.get_by_role("tab", name="Work").click()
    page.set_input_files("#files", song)
    page.wait_for_selector(".job.done:has-text('Dropped')", timeout=120_000)
    page.locator(".job.done", has_text="Dropped").locator(".names button").click()
    page.wait_for_function("document.body.classList.contains('playing')")
    assert page.locator(".lane").count() == 4
    page.set_input_files("#files", {"name": "x.flac", "mimeType": "audio/flac", "buffer": b"no audio"})
    page.wait_for_selector("#uploads [role=alert]")


def test_a_track_is_separated_while_one_looks(page: Any, listening: Listening) -> None:
    """The stems come in where the track was playing, by themselves."""
    start(page, "Tone")
    page.keyboard.press("l")
    page.locator("#tempo summary").click()
    page.fill("#speed", "0.9")
    page.get_by_role("button", name="Separate", exact=True).click()
    page.wait_for_function("document.querySelectorAll('.lane').length === 4", timeout=120_000)
    page.wait_for_selector(".toast:has-text('The stems are here')")
    assert page.locator("#tempo-text").text_content() == "0.90×"
    assert page.locator("#region").is_visible()
    assert listening.beet("demix", "--remove", "-y", "title:tone").returncode == 0


def test_a_link_is_added_and_a_job_cancelled_and_tried_again(page: Any, listening: Listening, tmp_path: Path) -> None:
    page.get_by_role("tab", name="Work").click()
    page.fill("#url", "http://127.0.0.1:9/song.mp3")  # nobody listens there
    page.get_by_role("button", name="Add").click()
    page.wait_for_selector(".job:has-text('127.0.0.1:9')")
    song = listening.song(tmp_path / "long.flac", "Long", seconds=60.0, seed=30)
    key = listening.work.add([str(song)])[0]
    job = page.locator(f".job[data-key='{key}']")
    job.get_by_role("button", name="Cancel").click()
    page.wait_for_selector(f".job.cancelled[data-key='{key}']")
    assert jobs(listening)[key]["state"] == "cancelled"
    job.get_by_role("button", name="Try again").click()
    page.wait_for_selector(f".job[data-key='{key}']:not(.cancelled)")
    job.get_by_role("button", name="Cancel").click()
    page.wait_for_selector(f".job.cancelled[data-key='{key}']")
    failing = page.locator(".job", has_text="127.0.0.1:9")
    failing.get_by_role("button", name="Cancel").or_(failing.get_by_role("button", name="Try again")).wait_for()


def test_inside_beet_web_there_is_only_listening(window: Callable[..., Any], listening: Listening, tmp_path: Path) -> None:
    with beet_web(listening, tmp_path) as (url, _):
        page = window(url=f"{url}/demix/")
        start(page, "Alpha")
        page.keyboard.press("Shift+Digit3")
        assert_is(heard(page, 0.5), listening.stem("Alpha", "bass"))
        page.locator("#rows .open", has_text="Beta").click()
        page.wait_for_selector(f"#callout:has-text('beet demix id:{listening.id('Beta')}')")
        assert [tab.text_content().split()[0] for tab in page.get_by_role("tab").all()] == ["Library", "Queue"]
        assert page.get_by_role("button", name="Separate").count() == 0
        assert not page.locator("#drop").is_visible()


# ---- hands


def test_the_keyboard_alone(page: Any, listening: Listening) -> None:
    """From the first key to a mix, without a mouse; what is focused is never lost."""
    page.keyboard.press("/")
    page.keyboard.type("album:songs title+")
    page.wait_for_function("document.querySelectorAll('#rows .row').length === 4")
    page.keyboard.press("ArrowDown")
    for key in ("ArrowDown", "ArrowUp", "ArrowDown", "ArrowDown"):
        page.keyboard.press(key)
    focused = "document.activeElement.textContent"
    titles = page.locator("#rows b").all_text_contents()
    assert titles[2] in page.evaluate(focused)
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    page.wait_for_function(f"document.querySelector('#now-title').textContent === {json.dumps(titles[1])}")
    page.wait_for_selector("body.playing")
    assert titles[1] in page.evaluate(focused)
    page.keyboard.press("Tab")  # what can be done with this track
    while "Add to the queue" not in page.evaluate("document.activeElement.ariaLabel ?? ''"):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator("#tab-library").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#queue-rows .row")
    left = page.locator("#queue-rows .row").count()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_function(f"document.querySelectorAll('#queue-rows .row').length === {left - 1}")
    assert page.evaluate("document.activeElement.closest('#queue-rows') !== null") is (left > 1)
    page.locator("#tempo summary").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#tempo-text").text_content() == "0.95×"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.matches('#tempo > summary')")


def test_a_mouse_leaves_the_keys_to_the_player(page: Any) -> None:
    """What it removes from the queue is one track, and the space bar removes none."""
    start(page, "Alpha")
    page.get_by_role("button", name="Add to the queue: Tone").first.press("Enter")
    page.get_by_role("button", name="Add to the queue: Beta").first.press("Enter")
    page.get_by_role("tab", name="Queue").click()
    left = page.locator("#queue-rows .row").count()
    page.get_by_role("button", name="Remove from the queue: Beta").first.click()
    page.keyboard.press("Space")
    page.wait_for_selector("body:not(.playing)")
    assert page.locator("#queue-rows .row").count() == left - 1


def test_the_queue_keeps_the_focus(page: Any) -> None:
    """On its row while others go, and on the next when it goes."""
    focused = "document.activeElement.closest('#queue-rows .row').querySelector('b').textContent"
    start(page, "Alpha")
    for title in ("Tone", "Beta", "Alpha"):
        page.get_by_role("button", name=f"Add to the queue: {title}").first.press("Enter")
    page.get_by_role("tab", name="Queue").click()
    page.locator("#queue-rows .open", has_text="Beta").first.focus()
    page.keyboard.press("n")
    page.wait_for_function("document.querySelector('#queue-rows b').textContent === 'Beta'")
    page.wait_for_timeout(300)
    assert page.evaluate(focused) == "Beta"
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#now-title').textContent === 'Beta'")
    page.wait_for_timeout(100)
    assert page.evaluate(focused) == "Tone"


def test_rows_that_come_anew_keep_the_focus(page: Any) -> None:
    """On the very button: a key that follows does what it would have done before."""
    page.get_by_role("button", name="Add to the queue: Tone").focus()
    with page.expect_response("**/api/tracks?*"):
        page.evaluate("document.activeElement.id = 'old'; document.querySelector('#stems').dispatchEvent(new Event('change'))")
    page.wait_for_function("document.activeElement.id !== 'old'")
    assert page.evaluate("document.activeElement.ariaLabel") == "Add to the queue: Tone"


def test_space_opens_the_chooser_of_files(page: Any) -> None:
    page.get_by_role("tab", name="Work").click()
    page.locator("#files").focus()
    page.evaluate("document.activeElement.addEventListener('click', (event) => { event.preventDefault(); window.asked = 1; })")
    page.keyboard.press("Space")
    page.wait_for_function("window.asked")


def test_keys_of_other_keyboards(page: Any) -> None:
    """Where / is on the 7 and [ on the 8, they are what they say, and 1 is where 1 is."""
    start(page, "Alpha")
    press = "([key, code, more]) => window.dispatchEvent(new KeyboardEvent('keydown', {key, code, bubbles: true, ...more}))"
    page.evaluate(press, ["[", "Digit8", {"ctrlKey": True, "altKey": True, "modifierAltGraph": True}])
    page.wait_for_selector("#region:visible")
    page.evaluate(press, ["&", "Digit1", {}])
    page.wait_for_selector("[data-lane=vocals].silent")
    page.evaluate(press, ["/", "Digit7", {"shiftKey": True}])
    assert page.evaluate("document.activeElement.id") == "query"


PHONE = {"viewport": {"width": 360, "height": 640}, "has_touch": True, "is_mobile": True}


def swipe(page: Any, x: float, y: float, across: float, down: float) -> None:
    """Move a finger over the glass."""
    finger = page.context.new_cdp_session(page)
    finger.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    for part in np.linspace(0, 1, 12):
        points = [{"x": x + part * across, "y": y + part * down}]
        finger.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": points})
        page.wait_for_timeout(20)
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.wait_for_timeout(200)


def test_a_phone(window: Callable[..., Any]) -> None:
    """A tap on a waveform seeks, scrolling over it does not; the browser's way back leads to the library."""
    page = window(**PHONE)
    page.locator("#rows .open", has_text="Alpha").tap()
    page.wait_for_selector("body.playing.deck-open")
    page.wait_for_timeout(500)
    page.locator("#play").tap()
    page.wait_for_selector("body:not(.playing)")
    at = "Number(document.querySelector('#lanes').style.getPropertyValue('--at'))"
    wave = page.locator("[data-lane=bass] .wave")
    wave.scroll_into_view_if_needed()
    box = wave.bounding_box()
    page.touchscreen.tap(box["x"] + 0.75 * box["width"], box["y"] + 10)
    assert page.evaluate(at) == pytest.approx(0.75, abs=0.01)
    scrolled = page.evaluate("document.querySelector('#deck').scrollTop = 0")
    box = page.locator("[data-lane=drums] .wave").bounding_box()
    swipe(page, box["x"] + 40, box["y"] + 20, 0, -90)
    assert page.evaluate("document.querySelector('#deck').scrollTop") > scrolled
    assert page.evaluate(at) == pytest.approx(0.75, abs=0.01)
    box = page.locator("[data-lane=drums] .wave").bounding_box()
    swipe(page, box["x"] + 40, box["y"] + 20, 0.5 * box["width"] - 40, 0)
    assert page.evaluate(at) == pytest.approx(0.5, abs=0.02)
    small = page.evaluate("""[...document.querySelectorAll('#deck :is(button, summary), #transport :is(button, summary)')]
      .map((node) => [node.id || node.textContent, node.getBoundingClientRect()])
      .filter(([, box]) => box.width && (box.height < 43 || box.width < 40)).map(([name]) => name)""")
    assert small == []
    page.go_back()
    page.wait_for_selector("body:not(.deck-open)")
    assert page.locator("#now-title").text_content() == "Alpha"
    page.locator("#mini").tap()
    page.wait_for_selector("body.deck-open")
    page.get_by_role("button", name="Back to the library").tap()
    page.wait_for_selector("body:not(.deck-open)")
    page.locator("#query").tap()


def test_a_phone_stays_where_it_is(window: Callable[..., Any]) -> None:
    """The next track leaves whoever looks through the library there."""
    page = window(**PHONE)
    page.locator("#rows .open", has_text="Beta").tap()
    page.wait_for_selector("body.playing.deck-open")
    page.go_back()
    page.wait_for_selector("body:not(.deck-open)")
    page.wait_for_function("document.querySelector('#now-title').textContent !== 'Beta'")  # it is three seconds long
    page.wait_for_selector("body.playing")
    page.wait_for_timeout(300)
    page.evaluate("document.dispatchEvent(new CustomEvent('reopen'))")
    page.wait_for_selector("body:not(.playing)")
    page.wait_for_timeout(300)
    assert page.locator("body.deck-open").count() == 0
    assert page.evaluate("document.activeElement.id") != "deck"


# ---- form


def test_the_page_is_light(window: Callable[..., Any]) -> None:
    """Less than 300 kB before any audio, even with time stretching, of which nothing is loaded before it is used."""
    sizes: dict[str, int] = {}
    page = window()
    page.on("response", lambda answer: sizes.update({answer.url: len(answer.body())}))
    page.reload()
    page.wait_for_selector("html[data-ready]")
    page.wait_for_timeout(300)
    assert sum(sizes.values()) < 300_000
    assert not [url for url in sizes if "stretch" in url]
    static = Path(stems.__file__).parent / "web" / "static"
    everything = sum(file.stat().st_size for file in static.rglob("*") if file.is_file())
    assert everything < 300_000


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (1280, "light"), (360, "light")])
def test_axe_finds_nothing_serious(window: Callable[..., Any], width: int, scheme: str) -> None:
    page = window(viewport={"width": width, "height": 760}, color_scheme=scheme)
    views: list[Callable[[], object]] = [lambda: start(page, "Alpha"), lambda: page.keyboard.press("1")]
    if width < 900:
        views.append(lambda: page.get_by_role("button", name="Back to the library").click())
    views += [lambda name=name: page.get_by_role("tab", name=name).click() for name in ("Work", "Queue", "Library")]
    views += [lambda: page.fill("#query", "path:/"), lambda: page.fill("#query", ""),
              lambda: page.get_by_role("button", name="Albums").click(), lambda: page.keyboard.press("?")]  # fmt: skip
    if width > 900:
        views.insert(2, lambda: page.locator("#downloads summary").click())
    found = axe(page)
    for view in views:
        view()
        page.wait_for_timeout(450)
        found += axe(page)
    assert not found, "\n".join(sorted(set(found)))


def axe(page: Any) -> list[str]:
    """What is serious or critical, one line each."""
    page.evaluate(AXE.read_text("utf-8") + "; 0")  # the browser lets its debugger do what the page's policy forbids
    result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [f"{rule['id']} {node['target']} {json.dumps(node['any'][:1])[:300]}" for rule in result["violations"]
            if rule["impact"] in ("serious", "critical") for node in rule["nodes"]]  # fmt: skip


@pytest.mark.parametrize("width", [360, 1024])
def test_nothing_sticks_out(window: Callable[..., Any], width: int) -> None:
    page = window(viewport={"width": width, "height": 740}, has_touch=True)
    start(page, "Alpha")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = page.evaluate("""[...document.querySelectorAll('button, input, summary, h2')].filter((node) => {
      const box = node.getBoundingClientRect();
      return box.width && !node.closest('.presets, #side') && (box.left < -1 || box.right > innerWidth + 1);
    }).map((node) => node.outerHTML)""")
    assert outside == []
    if width < 900:
        page.get_by_role("button", name="Back to the library").click()
        page.wait_for_timeout(500)
        page.locator("#query").click()


def test_without_audio_worklets_it_plays_too(window: Callable[..., Any], listening: Listening) -> None:
    """As for a phone that opened the page by http: the browser has no worklets for it."""
    page = window(f"#track={listening.id('Alpha')}", bypass_csp=False)
    page.add_init_script("Object.defineProperty(BaseAudioContext.prototype, 'audioWorklet', {get() { return undefined; }});"
                         "AudioNode.prototype.connect = (connect => function (to) { window.connected = this.constructor.name;"
                         " return connect.call(this, to); })(AudioNode.prototype.connect)")  # fmt: skip
    page.reload()
    page.wait_for_selector("html[data-ready]")
    page.wait_for_selector(".lane")
    page.locator("#play").click()
    page.wait_for_selector("#elapsed:text('0:02')")
    assert page.evaluate("window.connected") == "ScriptProcessorNode"


def test_it_plays_under_its_policy(window: Callable[..., Any], listening: Listening) -> None:
    """Nothing is run, styled or fetched that the page's own rules forbid."""
    page = window(f"#track={listening.id('Alpha')}&speed=0.9", bypass_csp=False)
    forbidden: list[str] = []
    page.on("console", lambda message: forbidden.append(message.text) if "Content Security Policy" in message.text else None)
    page.reload()
    page.wait_for_selector(".lane canvas")
    page.locator("#play").click()
    page.wait_for_selector("#elapsed:text('0:01')")
    page.locator("#tempo summary").click()
    page.fill("#key", "2")
    page.get_by_role("tab", name="Work").click()
    page.wait_for_selector("#elapsed:text('0:03')")
    assert forbidden == []


# ---- long tracks


@pytest.mark.heavy
def test_an_hour_plays_in_bounded_memory(window: Callable[..., Any], listening: Listening) -> None:
    """Seeking all through an hour of four stems holds no more than a few seconds of it."""
    hour(listening)
    page = window()
    first_s = until_heard(page, page.locator("#rows .open").filter(has_text="Hour").click)
    box = page.locator(".wave").first.bounding_box()
    page.keyboard.press("Space")
    page.wait_for_selector("body:not(.playing)")
    page.wait_for_timeout(200)
    page.mouse.click(box["x"] + 0.83 * box["width"], box["y"] + 20)
    again_s = until_heard(page, lambda: page.keyboard.press("Space"))
    print(f"heard after {first_s:.2f} s; after a seek, {again_s:.2f} s")
    assert max(first_s, again_s) < 10
    page.evaluate("window.recorded = {push() {}, length: 0}")
    sizes = []
    for part in np.random.default_rng(2).uniform(0.01, 0.99, 60):
        page.mouse.click(box["x"] + part * box["width"], box["y"] + 20)
        page.wait_for_timeout(400)
        sizes.append(memory(page))
    print("MB:", [round(size / 1e6) for size in sizes])
    assert max(sizes[30:]) < max(sizes[5:15]) + 120e6  # the sixty places hold 800 MB
    assert page.evaluate("document.body.classList.contains('playing')")


def until_heard(page: Any, act: Callable[[], object]) -> float:
    """Seconds from an act, in silence, to the first sound."""
    page.evaluate("window.recorded = []")
    begun = time.monotonic()
    act()
    page.wait_for_function("window.recorded.some(([left]) => left.some((value) => value !== 0))", polling=10)
    return time.monotonic() - begun


def memory(page: Any) -> int:
    """Bytes that Chromium's renderers hold: of this page, for there is no other."""
    page.evaluate("gc()")
    processes = page.context.browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    pages = [Path(f"/proc/{process['id']}/statm") for process in processes if process["type"] == "renderer"]
    return sum(int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") for statm in pages)


def hour(listening: Listening) -> None:
    """A track of an hour with stems: Alpha's, over and over."""
    if listening.get("api/tracks", params={"q": "title:hour"}).json()["rows"]:
        return
    source = Path(listening.fields("$stems_path", "title:alpha")[0])
    made = stems.read(source)
    assert made is not None
    turns = 3600 // int(SECONDS["Alpha"])
    arriving = listening.song(listening.base / "hour" / "Hour.flac", "Hour", album="Long", seconds=1.0)
    assert listening.beet("import", arriving.parent).returncode == 0
    track = Path(listening.fields("$path", "title:hour")[0])
    folder = stems.folder_for(track)
    folder.mkdir()
    for name, file in made.files.items():
        audio = read(source / file)
        with soundfile.SoundFile(folder / file, "w", 44100, 2, "PCM_16", compression_level=0.0) as out:
            for _ in range(turns):
                out.write(audio)
        assert name in file
    stat = track.stat()
    origin = dataclasses.replace(made.source, name=track.name, size=stat.st_size, mtime_ns=stat.st_mtime_ns,
                                 samples=turns * len(audio))  # fmt: skip
    new = dataclasses.replace(made, folder=folder, source=origin)
    new.write_manifest(folder)
    lib = opened(listening.base / "library.db", listening.music)
    lib._reading = False  # type: ignore[attr-defined]
    lib._close()
    with lib.music_dir_context():
        item = lib.items("title:hour").get()
        assert item is not None
        library.record(lib, item, new)
