"""The ``demixr`` command as its user meets it: output, exit codes, one line for what went wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from demixr_daemon.cli import main
from demixr_daemon.separation import loading, openunmix
from demixr_daemon.separation.models import ModelStore
from demixr_daemon.settings import TARGETS
from tests.conftest import random_network
from tests.made_song import made_mixture
from tests.test_models import STOP, VOCALS, Mirror, closed_port, full_disk, made_bytes, published, serving


class Home:
    """A user's folders, a beets configuration, and a ``demixr`` whose catalogue has the hashes of made files."""

    def __init__(self, base: Path, mirror: Mirror) -> None:
        self.base = base
        self.models = base / "models"
        self.config = base / "config.yaml"
        self.settings = f"demix:\n  models_dir: {self.models}\n  mirror: {mirror.url}\n"
        self.config.write_text(self.settings)
        self.beets = base / "beets"
        self.beets.mkdir()
        store = ModelStore()
        package = base / "python" / "demixr_models"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "demixr-small").symlink_to(store.embedded / "demixr-small")
        catalogue = json.loads((store.embedded / "catalogue.json").read_text("utf-8"))
        for name in ("umxhq", "umxl"):
            offer = published(mirror, store.offers[name], made_bytes(name))
            catalogue[name] |= {key: dataclasses.asdict(offer)[key] for key in ("files", "bytes")}
        (package / "catalogue.json").write_text(json.dumps(catalogue))
        python_path = [str(package.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment = os.environ | {
            "BEETSDIR": str(self.beets), "PYTHONPATH": os.pathsep.join(python_path), "PYTHONUTF8": "1",
        }  # fmt: skip

    def start(self, *arguments: str | Path, **options: int | None) -> subprocess.Popen[str]:
        """Start ``demixr`` with these arguments and nothing else."""
        return subprocess.Popen(
            [sys.executable, "-m", "demixr_daemon", *map(str, arguments)], env=self.environment, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, errors="surrogateescape", **({"stdin": subprocess.DEVNULL} | options),
        )  # fmt: skip

    def bare(self, *arguments: str | Path, **options: int | None) -> Done:
        """Run ``demixr`` with these arguments and nothing else."""
        process = self.start(*arguments, **options)
        return Done(*process.communicate(timeout=300), process.returncode)

    def run(self, *arguments: str | Path, **options: int | None) -> Done:
        """Run ``demixr models`` with the configuration."""
        return self.bare("-c", self.config, "models", *arguments, **options)


@dataclasses.dataclass(frozen=True)
class Done:
    """How a command ended."""

    out: str
    err: str
    code: int

    def failed(self, *parts: str) -> bool:
        """With exit code 1 and one line that has these parts."""
        assert "Traceback" not in self.out + self.err
        assert self.code == 1, self
        assert self.err.startswith("demixr: ")
        assert self.err.count("\n") == 1, self.err
        return all(part in self.err for part in parts)


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serving() as server:
        yield server


@pytest.fixture
def home(tmp_path: Path, mirror: Mirror) -> Home:
    return Home(tmp_path, mirror)


Demixr = Callable[..., Done]


@pytest.fixture
def demixr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Demixr:
    """``demixr models ...`` in this process, for what needs torch: a traceback of its own fails the test."""
    monkeypatch.setenv("BEETSDIR", str(tmp_path))
    (tmp_path / "config.yaml").write_text(f"demix:\n  models_dir: {tmp_path / 'models'}\n")

    def run(*arguments: str | Path) -> Done:
        capsys.readouterr()
        code = main(["models", *map(str, arguments)])
        return Done(*capsys.readouterr(), code)

    return run


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """A folder of one small target."""
    folder = tmp_path / "one"
    folder.mkdir()
    torch.save(random_network(0, 16).state_dict(), folder / "vocals.pth")
    return folder


# models list


def lines_of(listing: Done) -> dict[str, str]:
    assert (listing.code, listing.err) == (0, "")
    return {line.split()[0]: line for line in listing.out.splitlines()}


def test_list_tells_what_is_here(home: Home) -> None:
    lines = lines_of(home.run("list"))
    assert "here" in lines["demixr-small"]
    assert "download" in lines["umxhq"]
    assert "CC BY-NC-SA 4.0" in lines["umxl"]
    assert lines["auto"] == f"auto is demixr-small; downloads lie in {home.models}"


def test_list_after_a_download(home: Home) -> None:
    assert home.run("download", "umxhq").code == 0
    lines = lines_of(home.run("list"))
    assert "here" in lines["umxhq"]
    assert lines["auto"].startswith("auto is umxhq;")


def test_list_has_own_folders(home: Home, weights: Path) -> None:
    shutil.copytree(weights, home.models / "mine")
    line = lines_of(home.run("list"))["mine"]
    assert "own" in line
    assert "here" in line
    assert ", ".join(TARGETS) in line


def test_list_with_a_name_that_is_no_text(home: Home) -> None:
    folder = home.models / os.fsdecode(b"caf\xe9")
    folder.mkdir(parents=True)
    (folder / "vocals.pth").touch()
    assert r"caf\xe9" in lines_of(home.run("list"))


def test_list_with_a_link_to_nowhere(home: Home) -> None:
    (home.models / "mine").mkdir(parents=True)
    (home.models / "mine" / "vocals.pth").symlink_to("nowhere")
    assert "0 MB" in lines_of(home.run("list"))["mine"]


# Where the settings come from


def test_models_dir_and_mirror_are_those_of_the_given_configuration(home: Home, mirror: Mirror) -> None:
    done = home.run("download", "umxhq")
    assert (done.code, done.err) == (0, "")
    assert {name for name, _ in mirror.asked} == {path.name for path in (home.models / "umxhq").glob("*.pth")}


def test_beets_own_configuration_is_read(home: Home) -> None:
    (home.beets / "config.yaml").write_text(home.settings)
    assert str(home.models) in lines_of(home.bare("models", "list"))["auto"]


def test_given_configuration_wins_over_beets_own(home: Home) -> None:
    (home.beets / "config.yaml").write_text("demix:\n  models_dir: /elsewhere\n")
    assert str(home.models) in lines_of(home.run("list"))["auto"]


def test_configuration_that_beets_includes_is_read(home: Home) -> None:
    (home.beets / "config.yaml").write_text("include: [demix.yaml]\n")
    (home.beets / "demix.yaml").write_text(home.settings)
    assert str(home.models) in lines_of(home.bare("models", "list"))["auto"]


def test_missing_configuration_is_named(home: Home) -> None:
    missing = home.base / "missing.yaml"
    assert home.bare("-c", missing, "models", "list").failed(str(missing), "no such configuration file")


@pytest.mark.parametrize(("content", "said"), [
    ("demix: [\n  a: {b\n", "could not be read"),
    ("demix:\n\tmirror: x\n", "found tab character"),
    ("a: \xff\x00\n", "could not be read"),
    ("- a list\n", "must be a mapping"),
    ("demix: 5\n", "demix must be a collection"),
    ("demix:\n  mirror: 5\n", "demix.mirror: must be a string"),
    ("demix:\n  models_dir: [a]\n", "demix.models_dir: must be a filename"),
])  # fmt: skip
def test_broken_configuration_is_one_line(home: Home, content: str, said: str) -> None:
    home.config.write_bytes(content.encode("latin-1"))
    assert home.run("list").failed("configuration error: ", said)


def test_broken_configuration_of_beets_is_one_line(home: Home) -> None:
    (home.beets / "config.yaml").write_text("demix: [\n  a: {b\n")
    assert home.bare("models", "list").failed(f"configuration error: {home.beets}/config.yaml could not be read")


def test_configuration_folder_that_cannot_be_is_one_line(home: Home) -> None:
    home.environment["BEETSDIR"] = str(home.config / "beets")
    assert home.bare("models", "list").failed("Not a directory", str(home.config))


def test_models_dir_that_cannot_be_is_one_line(home: Home) -> None:
    home.config.write_text(f"demix:\n  models_dir: /{'x' * 300}\n")
    assert home.run("list").failed("File name too long")


# Usage


@pytest.mark.parametrize("arguments", [
    [], ["models"], ["models", "paint"], ["models", "list", "--all"], ["models", "download"], ["models", "export", "umxhq"],
    ["models", "export", "umxhq", "out.pt", "--quantization", "int4"], ["models", "export", "umxhq", "out.pt", "--niter", "x"],
    ["models", "export", "umxhq", "out.pt", "--niter=-1"], ["models", "export", "umxhq", "out.pt", "--niter", "11"],
])  # fmt: skip
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: demixr")


def test_usage_from_the_shell(home: Home) -> None:
    done = home.bare("models", "paint")
    assert done.code == 2
    assert done.err.startswith("usage: demixr")


@pytest.mark.parametrize("action", ["verify", "export", "download", "remove"])
def test_unknown_model_is_one_line(demixr: Demixr, action: str) -> None:
    assert demixr(action, "umxh", *(["out.pt"] if action == "export" else [])).failed("umxh")


# models download


def test_download_names_the_licence_and_the_place(home: Home) -> None:
    done = home.run("download", "umxhq")
    assert (done.code, done.err) == (0, "")
    assert "Licence: MIT, https://zenodo.org/records/3370489\n" in done.out
    assert done.out.endswith(f"umxhq is complete in {home.models / 'umxhq'}\n")


def test_interrupted_download_is_resumed(home: Home, mirror: Mirror) -> None:
    mirror.stops = iter([STOP, STOP])
    assert home.run("download", "umxhq").failed(VOCALS, "run again to resume")
    mirror.asked.clear()
    assert home.run("download", "umxhq").code == 0
    assert mirror.asked[0][1].startswith("bytes=")


def test_interrupt_from_the_keyboard_is_130_and_resumed(home: Home, mirror: Mirror) -> None:
    mirror.stops = iter([STOP])
    mirror.goes_on.clear()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in a background job it is ignored, and by children too
    process = home.start("-c", home.config, "models", "download", "umxhq")
    signal.signal(signal.SIGINT, before)
    part = home.models / "umxhq" / f"{VOCALS}.part"
    deadline = time.monotonic() + 60
    while not part.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    mirror.goes_on.set()
    assert (process.returncode, err) == (130, "demixr: interrupted\n")
    assert part.exists()
    assert home.run("download", "umxhq").code == 0


def test_refused_file_is_one_line(home: Home, mirror: Mirror) -> None:
    mirror.files[VOCALS] = b"something else"
    assert home.run("download", "umxhq").failed(VOCALS, "refused")


def test_no_network_is_one_line(home: Home) -> None:
    address = closed_port()
    home.config.write_text(f"demix:\n  models_dir: {home.models}\n  mirror: http://{address}/\n")
    assert home.run("download", "umxhq").failed(f"cannot reach {address}")


@pytest.mark.parametrize("stdin", ["empty", "closed"])
def test_umxl_without_a_terminal_wants_the_option(home: Home, mirror: Mirror, stdin: str) -> None:
    if stdin == "closed":
        command = f'exec "{sys.executable}" -m demixr_daemon -c "{home.config}" models download umxl <&-'
        ended = subprocess.run(["sh", "-c", command], env=home.environment, capture_output=True, text=True, check=False)
        done = Done(ended.stdout, ended.stderr, ended.returncode)
    else:
        done = home.run("download", "umxl")
    assert done.failed("--accept-licence")
    assert "Licence: CC BY-NC-SA 4.0, https://creativecommons.org/licenses/by-nc-sa/4.0/" in done.out
    assert mirror.asked == []


def test_umxl_with_the_option(home: Home) -> None:
    done = home.run("download", "umxl", "--accept-licence")
    assert (done.code, done.err) == (0, "")
    assert "CC BY-NC-SA 4.0" in done.out


def at_terminal(home: Home, typed: bytes) -> Done:
    """Download umxl with this typed at a terminal."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, typed)
        return home.run("download", "umxl", stdin=theirs)
    finally:
        os.close(ours)
        os.close(theirs)


def test_consent_at_the_terminal(home: Home) -> None:
    done = at_terminal(home, b"y\n")
    assert (done.code, done.err) == (0, "")
    assert "Do you accept CC BY-NC-SA 4.0 for umxl? [y/N]" in done.out


@pytest.mark.parametrize("typed", [b"n\n", b"\n", b"\x04"], ids=["n", "return", "end of input"])
def test_no_consent_at_the_terminal(home: Home, mirror: Mirror, typed: bytes) -> None:
    assert at_terminal(home, typed).failed("its licence was not accepted")
    assert mirror.asked == []


# models verify


def test_verify_names_what_it_found(demixr: Demixr, one: Path) -> None:
    done = demixr("verify", one)
    assert (done.code, done.err) == (0, "")
    assert done.out == f"one: good (vocals; sha256 {ModelStore().find(str(one)).sha256[:16]})\n"


def test_verify_takes_all_that_are_present(demixr: Demixr, one: Path, tmp_path: Path) -> None:
    shutil.copytree(one, tmp_path / "models" / "mine")
    done = demixr("verify")
    assert (done.code, done.err) == (0, "")
    assert [line.split(":")[0] for line in done.out.splitlines()] == ["demixr-small", "mine"]


def test_verify_tells_weights_that_have_changed(home: Home) -> None:
    assert home.run("download", "umxhq").code == 0
    (home.models / "umxhq" / VOCALS).write_bytes(b"damaged")
    assert home.run("verify", "umxhq").failed(VOCALS, "damaged weights of umxhq")


def test_verify_tells_weights_that_are_none(demixr: Demixr, one: Path) -> None:
    content = (one / "vocals.pth").read_bytes()
    (one / "vocals.pth").write_bytes(content[: len(content) // 2])
    assert demixr("verify", one).failed(f"{one}/vocals.pth: damaged, or not weights")


def test_verify_goes_on_after_a_damaged_model(demixr: Demixr, tmp_path: Path, one: Path) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "bass.pth").touch()
    done = demixr("verify", bad, one)
    assert done.failed("bass.pth")
    assert done.out.startswith("one: good")


@pytest.mark.parametrize("name", ["/no/such/folder", "~no-such-user/weights"])
def test_verify_of_a_path_without_weights(demixr: Demixr, name: str) -> None:
    assert demixr("verify", name).failed(f"{name}: no model there")


# models export

_APART = """
import sys, torch
separator = torch.jit.load(sys.argv[1])
torch.save(separator(torch.load(sys.argv[2])), sys.argv[3])
assert not {"openunmix", "demixr_daemon"} & set(sys.modules)
"""


@pytest.mark.parametrize("quantization", ["int8", "fp32"])
def test_export_separates_with_torch_alone(demixr: Demixr, weights: Path, tmp_path: Path, quantization: str) -> None:
    file = tmp_path / "out.pt"
    done = demixr("export", weights, file, "--quantization", quantization)
    assert (done.code, done.err) == (0, "")
    assert "vocals, drums, bass, other" in done.out
    audio = torch.from_numpy(made_mixture(1.003).T.copy())[None]
    torch.save(audio, tmp_path / "audio")
    paths = [str(path) for path in (file, tmp_path / "audio", tmp_path / "stems")]
    subprocess.run([sys.executable, "-W", "ignore", "-c", _APART, *paths], check=True, timeout=300, cwd=tmp_path)
    stems = torch.load(tmp_path / "stems").numpy()
    nets = loading.targets(ModelStore().find(str(weights)))
    if quantization == "int8":
        nets = {target: openunmix.quantized(net) for target, net in nets.items()}
    with torch.inference_mode():
        expected = openunmix.reference(nets)(audio).numpy()
    assert stems.shape == (1, 4, 2, audio.shape[2])
    assert np.sum(np.square(expected - stems)) < 1e-6 * np.sum(np.square(expected))  # 60 dB


def test_export_of_one_target(demixr: Demixr, one: Path, tmp_path: Path) -> None:
    """The Wiener filter needs two; the network's own estimate is what there is."""
    assert demixr("export", one, tmp_path / "out.pt").code == 0
    stems = torch.jit.load(tmp_path / "out.pt")(torch.from_numpy(made_mixture(0.3).T.copy())[None])
    assert stems.shape[:3] == (1, 1, 2)
    assert np.isfinite(stems.numpy()).all()


@pytest.mark.parametrize("place", ["no-such-folder/out.pt", "a-file/out.pt", "a-folder", "."])
def test_export_to_where_it_cannot_be_is_one_line(
    demixr: Demixr, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "a-file").touch()
    (tmp_path / "a-folder").mkdir()
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert demixr("export", one, place).failed("cannot write the export")
    assert sorted(tmp_path.rglob("*")) == before


def test_export_to_a_full_disk_keeps_what_was_there(demixr: Demixr, one: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old.pt").write_text("an older export")
    with full_disk(10_000):
        done = demixr("export", one, out / "old.pt")
    assert done.failed("cannot write the export")
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [("old.pt", "an older export")]


def test_export_of_damaged_weights_writes_nothing(demixr: Demixr, one: Path, tmp_path: Path) -> None:
    (one / "vocals.pth").write_text("these are no weights")
    assert demixr("export", one, tmp_path / "out.pt").failed("vocals.pth: damaged")
    assert not (tmp_path / "out.pt").exists()


# models remove


def test_remove_deletes_a_download(home: Home) -> None:
    assert home.run("download", "umxhq").code == 0
    done = home.run("remove", "umxhq")
    assert (done.out, done.err, done.code) == ("umxhq removed\n", "", 0)
    assert not (home.models / "umxhq").exists()


def test_remove_of_what_is_not_there(home: Home) -> None:
    assert home.run("remove", "umxhq").failed("umxhq is not among the downloaded ones")


def test_remove_of_the_embedded_model_is_refused(home: Home) -> None:
    assert home.run("remove", "demixr-small").failed("part of the program")
    assert "here" in lines_of(home.run("list"))["demixr-small"]


def test_remove_leaves_own_folders(home: Home, weights: Path) -> None:
    shutil.copytree(weights, home.models / "mine")
    assert home.run("remove", "mine").failed("mine is not among the downloaded ones")
    assert (home.models / "mine" / "vocals.pth").exists()
