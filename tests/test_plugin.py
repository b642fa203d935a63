"""``beet demix`` as a beets user types it: real libraries on disk, the real command."""

from __future__ import annotations

import fcntl
import os
import pty
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import confuse
import mediafile
import numpy as np
import pytest

from demixr_daemon import stems
from demixr_daemon.settings import TARGETS, section_defaults
from tests.conftest import Library, read

Song = Callable[..., Path]


@pytest.fixture
def tagged(song: Song) -> Song:
    """A made song with tags: ``tagged("name.flac", title=..., album=..., **how)``."""

    def write(name: str, *, artist: str = "Foo", album: str = "Bar", seconds: float = 1.0, **how: object) -> Path:
        path = song(f"in/{name}", seconds=seconds, **how)
        tags = mediafile.MediaFile(path)
        tags.update({"title": path.stem, "artist": artist, "album": album, "track": 1})
        tags.save()
        return path

    return write


@pytest.fixture
def album(library: Library, tagged: Song) -> Library:
    """A library with an album of two tracks."""
    tagged("one.flac")
    tagged("two.wav", rate_hz=22050, channels=1)
    assert library.beet("import", tagged("one.flac").parent).returncode == 0
    return library


def clean(answer: subprocess.CompletedProcess[str]) -> str:
    """Both outputs; no traceback is in them."""
    output = answer.stdout + answer.stderr
    assert "Traceback" not in output, output
    return output


def test_separates_records_and_finds(album: Library) -> None:
    answer = album.beet("demix", "artist:foo")
    assert "2 done, 0 skipped, 0 failed" in clean(answer)
    assert answer.returncode == 0
    folder = album.music / "Foo" / "Bar" / "01 one.stems"
    assert sorted(os.listdir(folder)) == ["bass.flac", "drums.flac", "manifest.json", "other.flac", "vocals.flac"]
    total = np.sum([read(folder / f"{target}.flac") for target in TARGETS], axis=0)
    np.testing.assert_array_equal(total, read(folder.with_name("01 one.flac")))
    made = stems.read(folder)
    assert made is not None
    pattern = "$title|$stems|$stems_path|$stems_format|$stems_fingerprint|$stems_vocals|$stems_instrumental|"
    line = f"one|vocals; drums; bass; other|{folder}|flac|{made.source.fingerprint}|{folder / 'vocals.flac'}||"
    assert line in album.fields(pattern, "stems::vocals")
    assert len(album.fields("$title", "stems::vocals", "stems_model::int8", "stems_added:2020..")) == 2
    assert album.fields("$title", "^stems::.") == []


def test_the_path_is_stored_relative_to_the_music(album: Library) -> None:
    album.beet("demix")
    moved = album.base / "elsewhere"
    album.music.rename(moved)
    config = album.base / "config.yaml"
    config.write_text(config.read_text().replace(str(album.music), str(moved)))
    for line in album.fields("$stems_vocals"):
        assert line.startswith(str(moved))
        assert Path(line).is_file()


def test_what_is_current_is_skipped_and_what_is_stale_made_again(album: Library) -> None:
    album.beet("demix")
    assert "0 done, 2 skipped, 0 failed" in clean(album.beet("demix"))
    assert "2 done, 0 skipped" in clean(album.beet("demix", "-f"))
    assert "2 done, 0 skipped" in clean(album.beet("demix", "--format", "wav"))
    assert set(album.fields("$stems_format")) == {"wav"}
    (album.music / "Foo" / "Bar" / "01 one.stems" / "bass.wav").unlink()
    assert "1 done, 1 skipped" in clean(album.beet("demix", "--format", "wav"))


def test_pretend_does_nothing(album: Library) -> None:
    output = clean(album.beet("demix", "-p"))
    assert output.count("demix: ") == 2
    assert "no stems yet" in output
    assert list(album.music.rglob("*.stems")) == []


def test_targets_and_instrumental_from_the_configuration(album: Library) -> None:
    with (album.base / "config.yaml").open("a") as config:
        config.write("  targets: [vocals]\n  instrumental: yes\n  format: opus\n")
    clean(album.beet("demix", "one"))
    folder = album.music / "Foo" / "Bar" / "01 one.stems"
    assert sorted(os.listdir(folder)) == ["instrumental.opus", "manifest.json", "vocals.opus"]
    assert album.fields("$stems_instrumental", "one") == [str(folder / "instrumental.opus")]


def test_albums(album: Library, tagged: Song) -> None:
    album.beet("import", "-s", tagged("single.flac", album="", artist="Baz"))
    assert "2 done" in clean(album.beet("demix", "-a", "album:bar"))


def test_one_bad_track_is_one_line_and_the_rest_goes_on(album: Library) -> None:
    (album.music / "Foo" / "Bar" / "01 one.flac").write_bytes(b"no audio")
    answer = album.beet("demix")
    assert answer.returncode == 1
    assert "1 done, 0 skipped, 1 failed" in clean(answer)
    assert len([line for line in answer.stderr.splitlines() if "01 one.flac" in line]) == 1
    assert album.fields("$title", "stems::vocals") == ["two"]


def test_a_missing_file(album: Library) -> None:
    (album.music / "Foo" / "Bar" / "01 one.flac").unlink()
    answer = album.beet("demix")
    assert answer.returncode == 1
    assert "No such file" in clean(answer)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--model", "nosuch"], "unknown model 'nosuch'; known are auto, demixr-small, umxhq, umxl"),
    (["--model", "umxhq"], "demixr models download umxhq"),
    (["--model", "/nowhere"], "no model there"),
    (["--format", "aac"], "demix.format: 'aac' is not one of flac, wav, mp3, opus, m4a"),
    (["--targets", "vocals,guitar"], "has no guitar"),
    (["--targets", ""], "name one stem at least"),
    (["--niter", "-1"], "demix.niter"),
    (["--bits", "8"], "demix.bits"),
    (["--threads", "-2"], "demix.threads"),
    (["artist:nobody"], "no tracks match"),
])  # fmt: skip
def test_a_mistake_is_told_in_one_line(album: Library, arguments: list[str], message: str) -> None:
    answer = album.beet("demix", *arguments)
    assert answer.returncode == 1
    assert message in clean(answer)
    assert len(answer.stderr.strip().splitlines()) == 1
    assert list(album.music.rglob("*.stems")) == []


@pytest.mark.parametrize("setting", ["niter: many", "format: 3", "threads: [1]", "warning_threshold: x"])
def test_a_mistake_in_the_configuration(album: Library, setting: str) -> None:
    with (album.base / "config.yaml").open("a") as config:
        config.write(f"  {setting}\n")
    answer = album.beet("demix")
    assert answer.returncode == 1
    assert setting.split(":", maxsplit=1)[0] in clean(answer)


def test_damaged_weights(album: Library, weights: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(weights, mine)
    (mine / "bass.pth").write_bytes(b"no weights")
    answer = album.beet("demix", "--model", mine)
    assert answer.returncode == 1
    assert "bass.pth" in clean(answer)


def test_asks_before_a_great_deal_of_work(album: Library) -> None:
    with (album.base / "config.yaml").open("a") as config:
        config.write("  warning_threshold: 1\n")
    answer = album.beet("demix", stdin="n\n")
    assert answer.returncode == 0
    assert "2 tracks" in clean(answer)
    assert "of disk" in answer.stdout
    assert list(album.music.rglob("*.stems")) == []
    assert "2 done" in clean(album.beet("demix", "-y"))


def test_quiet_says_nothing_when_all_is_well(album: Library) -> None:
    assert clean(album.beet("demix", "-q")) == ""


def test_remove_deletes_and_forgets(album: Library) -> None:
    album.beet("demix")
    clean(album.beet("demix", "--remove", stdin="n\n"))
    assert len(list(album.music.rglob("*.stems"))) == 2
    assert "2 removed" in clean(album.beet("demix", "--remove", "-y"))
    assert list(album.music.rglob("*.stems")) == []
    assert album.fields("$title", "stems::.") == []
    assert len(list(album.music.rglob("*.*"))) == 2  # the tracks are still there


def test_fields_are_mended_after_a_kill_between_publishing_and_recording(album: Library) -> None:
    album.beet("demix")
    with sqlite3.connect(album.base / "library.db") as database:
        database.execute("DELETE FROM item_attributes WHERE entity_id = (SELECT id FROM items WHERE title = 'one')")
    assert album.fields("$title", "stems::.") == ["two"]
    assert "2 skipped" in clean(album.beet("demix"))
    assert len(album.fields("$title", "stems::.")) == 2


def test_auto_separates_albums_and_singletons_on_import(library: Library, tagged: Song) -> None:
    with (library.base / "config.yaml").open("a") as config:
        config.write("  auto: yes\n")
    single = tagged("single.flac", album="", artist="Baz")
    clean(library.beet("import", "-s", single))
    single.unlink()
    clean(library.beet("import", tagged("one.flac").parent))
    assert sorted(library.fields("$title", "stems::vocals")) == ["one", "single"]
    for line in library.fields("$stems_vocals"):
        assert Path(line).is_file()
        assert library.music in Path(line).parents


def test_auto_goes_on_importing_what_cannot_be_separated(library: Library, tagged: Song) -> None:
    with (library.base / "config.yaml").open("a") as config:
        config.write("  auto: yes\n  model: umxhq\n")
    answer = library.beet("import", tagged("one.flac").parent)
    assert answer.returncode == 0
    assert "demixr models download umxhq" in clean(answer)
    assert library.fields("$title") == ["one"]


def test_stems_follow_a_track_that_moves(album: Library) -> None:
    album.beet("demix")
    album.beet("modify", "-y", "one", "title=New name", "album=Other")
    folder = next(album.music.rglob("*New name.stems"))
    assert album.fields("$stems_path", "title:new") == [str(folder)]
    assert "0 done, 2 skipped" in clean(album.beet("demix"))


def test_stems_are_not_imported_as_tracks(album: Library) -> None:
    album.beet("demix")
    clean(album.beet("import", "-C", album.music))
    assert sorted(album.fields("$title")) == ["one", "two"]


@pytest.mark.parametrize("name", ["it's \"quoted\"", "🎸 emoji", "new\nline", "x" * 120])
def test_odd_names(library: Library, tagged: Song, name: str) -> None:
    library.beet("import", tagged(f"{name}.flac").parent)
    answer = library.beet("demix")
    assert answer.returncode == 0, clean(answer)
    assert len(list(library.music.rglob("vocals.flac"))) == 1


def test_a_name_that_is_not_utf8_stays_where_it_is(library: Library, song: Song) -> None:
    folder = song(b"in/caf\xe9.flac", seconds=1.0).parent
    library.beet("import", "-C", folder)
    answer = library.beet("demix")
    assert answer.returncode == 0, clean(answer)
    assert (folder / os.fsdecode(b"caf\xe9.stems") / "vocals.flac").is_file()


def interrupted(library: Library, *arguments: str | Path) -> None:
    """Ctrl-C while ``beet`` separates, at its earliest."""
    process = subprocess.Popen([sys.executable, "-m", "beets", *arguments], env=library.environment(),
                               stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(library.music.rglob("*demixr-new/*.flac")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors


def test_interrupt_leaves_no_half_set(library: Library, tagged: Song) -> None:
    tagged("long.flac", seconds=400.0)
    library.beet("import", tagged("short.flac").parent)
    interrupted(library, "demix", "long")
    assert sorted(path.name for path in library.music.rglob("*") if path.is_file()) == ["01 long.flac", "01 short.flac"]


def test_a_bar_on_a_terminal(album: Library) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen([sys.executable, "-m", "beets", "demix", "one"], env=album.environment(),
                               stdout=subprocess.DEVNULL, stderr=theirs)  # fmt: skip
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 4096)
        except OSError:
            break
    os.close(ours)
    assert process.wait() == 0
    assert b"100%" in shown
    assert b"Traceback" not in shown


def test_the_filter_beside_a_plugin_that_filters_too(album: Library) -> None:
    album.beet("demix")
    config = album.base / "config.yaml"
    config.write_text(config.read_text().replace("plugins: demix", "plugins: demix filefilter"))
    for flags in (["-s"], ["--flat"], []):
        clean(album.beet("import", "-C", *flags, album.music))
        assert sorted(album.fields("$title")) == ["one", "two"], flags


def test_interrupt_of_an_import_leaves_no_half_set(library: Library, tagged: Song) -> None:
    with (library.base / "config.yaml").open("a") as config:
        config.write("  auto: yes\n")
    source = tagged("long.flac", seconds=400.0).parent
    interrupted(library, "import", source)
    assert [path.name for path in library.music.rglob("*") if path.is_file()] == ["01 long.flac"]


def test_two_at_once_share_the_work(album: Library) -> None:
    command = [sys.executable, "-m", "beets", "demix"]
    both = [subprocess.Popen(command, env=album.environment(), stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    assert len(album.fields("$title", "stems::vocals")) == 2
    assert len(list(album.music.rglob("vocals.flac"))) == 2


def plain(settings: object) -> object:
    """Settings so that equal ones compare equal: nothing is an empty text, a list may be words."""
    if isinstance(settings, dict):
        return {key: plain(value) for key, value in settings.items() if value != {}}
    return " ".join(settings) if isinstance(settings, list) else settings or ""


def test_the_settings_of_the_readme_are_the_defaults(album: Library) -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    block = next(part for part in readme.split("```yaml\n")[1:] if part.startswith("demix:")).split("```")[0]
    settings = confuse.yaml_util.yaml.safe_load(block)["demix"]
    assert plain(settings) == plain(section_defaults())
    config = album.base / "config.yaml"
    config.write_text(config.read_text().split("demix:\n")[0] + block)
    answer = album.beet("demix", "-p")
    assert answer.returncode == 0, clean(answer)


def test_beets_starts_without_the_slow_imports(library: Library) -> None:
    library.beet("ls")
    code = ("import sys, beets.ui; beets.ui._raw_main(['ls']); "
            "print([name for name in ('torch', 'openunmix', 'numba', 'yt_dlp', 'av') if name in sys.modules], "
            "'beetsplug.demix' in sys.modules)")  # fmt: skip
    answer = subprocess.run([sys.executable, "-c", code], env=library.environment(), capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[] True"


def test_what_is_current_needs_no_torch(album: Library) -> None:
    album.beet("demix")
    code = "import sys, beets.ui; beets.ui._raw_main(['demix']); print([n for n in ('torch', 'numba') if n in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], env=album.environment(), capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
