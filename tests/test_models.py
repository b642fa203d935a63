"""Weights: found by name, fetched over a bad network, checked, loaded without trust, cached."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import importlib.util
import io
import itertools
import os
import pickle
import random
import resource
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from demixr_daemon.errors import LicenceError, ModelError
from demixr_daemon.separation import loading
from demixr_daemon.separation.loading import LoadedModel
from demixr_daemon.separation.models import SUMS, Model, ModelStore, Offer
from demixr_daemon.separation.openunmix import load_target
from demixr_daemon.settings import TARGETS, Options
from tests.conftest import random_network
from tests.made_song import made_mixture

VOCALS = "vocals-b62c91ce.pth"
"""Of umxhq; the first file that a download asks for."""
FILE_BYTES = 60_000
STOP = FILE_BYTES // 2


class Mirror(ThreadingHTTPServer):
    """A web server of files in memory, with the faults of real ones."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/mirror"
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        """Name and range of each request so far."""
        self.stops: Iterator[int | None] = iter(())
        """For each request to come: the byte of the file before which the connection closes."""
        self.ranges = True
        self.compresses = False
        self.goes_on = threading.Event()
        """Until it is set, a connection that is to close early hangs instead."""
        self.goes_on.set()


class _Handler(BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        name, wanted = self.path.rpartition("/")[2], self.headers.get("Range", "")
        self.server.asked.append((name, wanted))
        if name not in self.server.files:
            self.send_error(404)
            return
        body = self.server.files[name]
        compressed = self.server.compresses and "gzip" in self.headers.get("Accept-Encoding", "")
        if compressed:
            body = gzip.compress(body)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.ranges else 0
        if start >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if compressed:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        stop = next(self.server.stops, None)
        self.wfile.write(body[start:stop])
        if stop is not None:
            self.server.goes_on.wait(60)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving() -> Iterator[Mirror]:
    with Mirror() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.goes_on.set()
        server.shutdown()
        thread.join()


def published(mirror: Mirror, offer: Offer, contents: Mapping[str, bytes]) -> Offer:
    """Put these files on the mirror under the offer's names; the offer with their hashes, as many digits as it had."""
    assert offer.files
    files = {}
    for target, entry in offer.files.items():
        mirror.files[entry["name"]] = contents[target]
        digest = hashlib.sha256(contents[target]).hexdigest()
        files[target] = {"name": entry["name"], "sha256": digest[: len(entry["sha256"])]}
    return dataclasses.replace(offer, files=files, bytes=max(map(len, contents.values())))


def made_bytes(name: str) -> dict[str, bytes]:
    """Contents of four files that only a hash can tell from weights."""
    return {target: random.Random(name + target).randbytes(FILE_BYTES) for target in TARGETS}


def closed_port() -> str:
    """An address of this machine where nobody listens."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{closed.getsockname()[1]}"


@contextlib.contextmanager
def full_disk(file_bytes: int) -> Iterator[None]:
    """No file can grow beyond this size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serving() as server:
        yield server


@pytest.fixture
def store(tmp_path: Path, mirror: Mirror) -> ModelStore:
    """An empty store whose mirror has small files for umxhq and umxl."""
    store = ModelStore(tmp_path / "models", mirror.url)
    for name in ("umxhq", "umxl"):
        store.offers[name] = published(mirror, store.offers[name], made_bytes(name))
    return store


def as_published(model: Model, mirror: Mirror) -> bool:
    return all(path.read_bytes() == mirror.files[path.name] for path in model.weights.values())


def separated(loaded: LoadedModel, seconds: float = 0.3) -> NDArray[np.float32]:
    audio = made_mixture(seconds)
    return np.concatenate(list(loaded.backend.separate([audio], [audio], np.eye(2, dtype=np.float32))))[: len(audio)]


# The catalogue


@pytest.mark.parametrize("name", ["umxhq", "umxl"])
def test_catalogue_has_the_addresses_of_upstream(name: str) -> None:
    spec = importlib.util.find_spec("openunmix")
    assert spec
    assert spec.origin
    source = Path(spec.origin).read_text("utf-8")
    offer = ModelStore().offers[name]
    assert offer.files
    assert set(offer.files) == set(TARGETS)
    for target, entry in offer.files.items():
        assert f'"{target}": "{offer.url}{entry["name"]}"' in source


@pytest.mark.parametrize("name", ["umxhq", "umxl"])
def test_names_of_published_files_end_in_their_hash(name: str) -> None:
    for entry in (ModelStore().offers[name].files or {}).values():
        assert entry["name"].removesuffix(".pth")[-8:] == entry["sha256"][:8]


# Download


def test_download_brings_the_files_as_published(store: ModelStore, mirror: Mirror) -> None:
    model = store.download("umxhq")
    assert tuple(model.weights) == TARGETS
    assert as_published(model, mirror)


def test_what_is_there_is_not_fetched_again(store: ModelStore, mirror: Mirror) -> None:
    store.download("umxhq")
    mirror.asked.clear()
    store.download("umxhq")
    assert mirror.asked == []


def test_broken_connection_is_taken_up_where_it_broke(store: ModelStore, mirror: Mirror) -> None:
    mirror.stops = iter([STOP])
    assert as_published(store.download("umxhq"), mirror)
    name, wanted = mirror.asked[1]
    assert name == VOCALS
    assert 0 < int(wanted.removeprefix("bytes=").removesuffix("-")) <= STOP


def test_connection_that_always_breaks_there_keeps_what_came(store: ModelStore, mirror: Mirror) -> None:
    mirror.stops = itertools.repeat(STOP)
    with pytest.raises(ModelError, match="run again to resume"):
        store.download("umxhq")
    part = store.folder / "umxhq" / f"{VOCALS}.part"
    assert mirror.files[VOCALS].startswith(part.read_bytes())
    assert 0 < part.stat().st_size <= STOP
    assert not part.with_suffix("").exists()


def test_next_call_resumes(store: ModelStore, mirror: Mirror) -> None:
    mirror.stops = itertools.repeat(STOP)
    with pytest.raises(ModelError):
        store.download("umxhq")
    have = (store.folder / "umxhq" / f"{VOCALS}.part").stat().st_size
    mirror.stops = iter(())
    mirror.asked.clear()
    assert as_published(store.download("umxhq"), mirror)
    assert mirror.asked[0] == (VOCALS, f"bytes={have}-")


def test_server_without_ranges_starts_over(store: ModelStore, mirror: Mirror) -> None:
    mirror.ranges = False
    mirror.stops = iter([STOP])
    assert as_published(store.download("umxhq"), mirror)
    assert mirror.asked[1][1]


def test_resumes_on_a_server_that_likes_to_compress(store: ModelStore, mirror: Mirror) -> None:
    mirror.compresses = True
    mirror.stops = iter([STOP])
    assert as_published(store.download("umxhq"), mirror)


def test_part_that_is_complete_is_taken(store: ModelStore, mirror: Mirror) -> None:
    folder = store.folder / "umxhq"
    folder.mkdir(parents=True)
    (folder / f"{VOCALS}.part").write_bytes(mirror.files[VOCALS])
    assert as_published(store.download("umxhq"), mirror)
    assert [wanted for name, wanted in mirror.asked if name == VOCALS] == [f"bytes={FILE_BYTES}-"]


def test_part_of_something_else_is_in_the_way_once(store: ModelStore, mirror: Mirror) -> None:
    folder = store.folder / "umxhq"
    folder.mkdir(parents=True)
    (folder / f"{VOCALS}.part").write_bytes(b"something else")
    with pytest.raises(ModelError, match="SHA-256"):
        store.download("umxhq")
    assert as_published(store.download("umxhq"), mirror)


def test_wrong_hash_leaves_nothing(store: ModelStore, mirror: Mirror) -> None:
    mirror.files[VOCALS] = mirror.files[VOCALS][:-1] + b"!"
    with pytest.raises(ModelError, match="refused: its SHA-256 is"):
        store.download("umxhq")
    assert list((store.folder / "umxhq").iterdir()) == []


def test_damaged_file_is_fetched_anew(store: ModelStore, mirror: Mirror) -> None:
    (store.download("umxhq").folder / VOCALS).write_bytes(b"damaged")
    assert as_published(store.download("umxhq"), mirror)


def test_missing_on_the_server_is_one_clear_line(store: ModelStore, mirror: Mirror) -> None:
    del mirror.files[VOCALS]
    with pytest.raises(ModelError, match=rf"^{mirror.url}/{VOCALS}: the server answered 404 [^\n]*$"):
        store.download("umxhq")


def test_no_network_is_one_clear_line(store: ModelStore) -> None:
    address = closed_port()
    store.mirror = f"http://{address}/"
    with pytest.raises(ModelError, match=rf"^cannot reach {address}: [^\n]*$"):
        store.download("umxhq")


@pytest.mark.parametrize("mirror_url", ["not an address", "ftp://127.0.0.1/", "http://[bad"])
def test_mirror_that_is_no_web_address_is_named(store: ModelStore, mirror_url: str) -> None:
    store.mirror = mirror_url
    with pytest.raises(ModelError, match=r"no address to download from; set demix\.mirror"):
        store.download("umxhq")


def test_folder_that_cannot_be_made_is_named(store: ModelStore) -> None:
    store.folder.write_text("a file")
    with pytest.raises(ModelError, match=f"cannot write the weights in {store.folder}"):
        store.download("umxhq")


def test_disk_that_fills_up_is_resumed_too(store: ModelStore, mirror: Mirror) -> None:
    with full_disk(STOP), pytest.raises(ModelError, match="cannot write the weights"):
        store.download("umxhq")
    assert as_published(store.download("umxhq"), mirror)


def test_report_counts_up_to_the_size_of_each_file(store: ModelStore, mirror: Mirror) -> None:
    mirror.stops = iter([STOP])
    seen: dict[str, list[int]] = {}
    store.download("umxhq", report=lambda name, have, total: seen.setdefault(name, []).append(have))
    assert len(seen) == 4
    for counts in seen.values():
        assert counts == sorted(set(counts))
        assert counts[-1] == FILE_BYTES


@pytest.mark.parametrize("name", ["demixr-small", "nothing-of-the-kind", "../umxhq"])
def test_only_the_catalogue_can_be_downloaded(store: ModelStore, name: str) -> None:
    with pytest.raises(ModelError, match="there are umxhq, umxl"):
        store.download(name)


# Licence and pins


def test_umxl_wants_consent_before_anything_happens(store: ModelStore, mirror: Mirror) -> None:
    with pytest.raises(LicenceError, match=r"CC BY-NC-SA 4\.0 .*--accept-licence"):
        store.download("umxl")
    assert mirror.asked == []
    assert not store.folder.exists()


def test_umxl_comes_with_consent(store: ModelStore, mirror: Mirror) -> None:
    model = store.download("umxl", accept_licence=True)
    assert as_published(model, mirror)
    assert model.licence == "CC BY-NC-SA 4.0"


def test_first_download_pins_whole_hashes(store: ModelStore, mirror: Mirror) -> None:
    model = store.download("umxl", accept_licence=True)
    lines = {f"{hashlib.sha256(mirror.files[path.name]).hexdigest()}  {path.name}" for path in model.weights.values()}
    assert set((model.folder / SUMS).read_text().splitlines()) == lines


def test_pinned_hash_holds_beyond_the_published_digits(store: ModelStore) -> None:
    model = store.download("umxl", accept_licence=True)
    path = model.weights["vocals"]
    pinned = hashlib.sha256(path.read_bytes()).hexdigest()
    sums = (model.folder / SUMS).read_text()
    (model.folder / SUMS).write_text(sums.replace(pinned, pinned[:8] + "0" * 56))
    path.unlink()
    with pytest.raises(ModelError, match=f"expected {pinned[:8]}{'0' * 56}"):
        store.download("umxl", accept_licence=True)


def test_catalogue_wins_over_a_pin_that_contradicts_it(store: ModelStore, mirror: Mirror) -> None:
    model = store.download("umxhq")
    (model.folder / SUMS).write_text(f"{'0' * 64}  {VOCALS}\n")
    mirror.asked.clear()
    store.download("umxhq").check()
    assert mirror.asked == []


def test_check_passes_what_was_downloaded(store: ModelStore) -> None:
    store.download("umxhq").check()


def test_check_tells_a_damaged_file(store: ModelStore) -> None:
    path = store.download("umxhq").weights["bass"]
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ModelError, match=f"{path.name}: damaged weights of umxhq"):
        store.find("umxhq").check()


def test_sums_that_are_no_text_do_no_harm(store: ModelStore, mirror: Mirror) -> None:
    (store.download("umxhq").folder / SUMS).write_bytes(bytes(range(256)))
    store.find("umxhq").check()
    assert as_published(store.download("umxhq"), mirror)


# Finding


def test_auto_is_the_embedded_model_when_nothing_is_downloaded(store: ModelStore) -> None:
    assert store.find("auto").name == "demixr-small"


def test_auto_is_umxhq_once_it_is_there(store: ModelStore) -> None:
    store.download("umxhq")
    assert store.find("auto").name == "umxhq"


def test_auto_is_never_umxl(store: ModelStore) -> None:
    store.download("umxl", accept_licence=True)
    assert store.find("auto").name == "demixr-small"
    assert store.find("umxl").name == "umxl"


def test_incomplete_download_is_not_present(store: ModelStore, mirror: Mirror) -> None:
    mirror.stops = itertools.chain([None, None], itertools.repeat(STOP))
    with pytest.raises(ModelError):
        store.download("umxhq")
    assert [model.name for model in store.present()] == ["demixr-small"]
    assert store.find("auto").name == "demixr-small"
    with pytest.raises(ModelError, match="run `demixr models download umxhq`"):
        store.find("umxhq")


def test_unknown_name_lists_the_known(store: ModelStore, weights: Path) -> None:
    shutil.copytree(weights, store.folder / "mine")
    with pytest.raises(ModelError, match="unknown model 'umxh'; known are auto, demixr-small, umxhq, umxl, mine"):
        store.find("umxh")


def test_missing_embedded_model_is_said(store: ModelStore, tmp_path: Path) -> None:
    store.embedded = tmp_path
    with pytest.raises(ModelError, match="demixr-small is missing from this installation"):
        store.find("auto")


def test_own_folder_by_its_path(store: ModelStore, weights: Path) -> None:
    model = store.find(str(weights))
    assert (model.folder, model.licence, tuple(model.weights)) == (weights, "your own weights", TARGETS)


def test_own_folder_by_a_path_from_home(store: ModelStore, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(weights.parent))
    assert store.find(f"~/{weights.name}").folder == weights


@pytest.mark.parametrize("name", ["/no/such/folder", "~no-such-user/weights"])
def test_path_without_weights_is_named(store: ModelStore, name: str) -> None:
    with pytest.raises(ModelError, match=rf"^{name}: no model there: the folder must hold <target>\.pth files$"):
        store.find(name)


def test_own_folder_beside_the_downloads_by_its_name(store: ModelStore, weights: Path) -> None:
    shutil.copytree(weights, store.folder / "mine")
    assert store.find("mine").name == "mine"
    assert [model.name for model in store.present()] == ["demixr-small", "mine"]


def test_plain_name_wins_over_one_with_a_hash(tmp_path: Path) -> None:
    for name in ("vocals-0123abcd.pth", "vocals.pth", "vocals-fedc9876.pth"):
        (tmp_path / name).touch()
    assert ModelStore().find(str(tmp_path)).weights == {"vocals": tmp_path / "vocals.pth"}


def test_without_a_network_for_other_it_is_still_a_target(tmp_path: Path) -> None:
    for name in ("piano.pth", "drums-0123abcd.pth", "vocals.pth"):
        (tmp_path / name).touch()
    assert ModelStore().find(str(tmp_path)).targets == ("vocals", "drums", "piano", "other")


@pytest.mark.parametrize(("content", "niter"), [
    (None, 1), ("", 1), ("[]", 1), ("{}", 1), ('{"niter": 0}', 0), ('{"niter": 3}', 3), ('{"niter": 11}', 1),
    ('{"niter": "x"}', 1),
])  # fmt: skip
def test_auto_niter_is_what_the_model_says(tmp_path: Path, content: str | None, niter: int) -> None:
    (tmp_path / "vocals.pth").touch()
    if content is not None:
        (tmp_path / "separator.json").write_text(content)
    model = ModelStore().find(str(tmp_path))
    assert (model.iterations("auto"), model.iterations("2")) == (niter, 2)


def test_hash_of_a_model_is_of_every_file(weights: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(weights, tmp_path / "copy")
    before = ModelStore().find(str(folder)).sha256
    assert before == ModelStore().find(str(weights)).sha256
    shutil.copy(folder / "bass.pth", folder / "drums.pth")
    assert ModelStore().find(str(folder)).sha256 != before


# Removal


def test_removed_model_is_gone(store: ModelStore) -> None:
    folder = store.download("umxhq").folder
    assert store.remove("umxhq")
    assert not folder.exists()
    assert not store.remove("umxhq")


def test_embedded_model_stays(store: ModelStore) -> None:
    with pytest.raises(ModelError, match="part of the program"):
        store.remove("demixr-small")
    store.find("demixr-small")


def test_own_folder_is_not_ours_to_remove(store: ModelStore, weights: Path) -> None:
    shutil.copytree(weights, store.folder / "mine")
    assert not store.remove("mine")
    assert store.find("mine")


def test_linked_folder_is_left_and_the_reason_said(store: ModelStore, weights: Path) -> None:
    store.folder.mkdir()
    (store.folder / "umxhq").symlink_to(weights)
    with pytest.raises(ModelError, match=r"cannot remove .*symbolic link"):
        store.remove("umxhq")
    assert (weights / "vocals.pth").exists()


# The true shapes


def true_files(hidden_size: int, *, old: bool) -> dict[str, bytes]:
    """Random networks as the published files are: the old ones in torch's first format and with buffers besides."""
    contents = {}
    for seed, target in enumerate(TARGETS):
        state = random_network(seed, hidden_size).state_dict()
        if old:
            window = torch.hann_window(4096)
            state |= {"sample_rate": torch.tensor(44100.0), "stft.window": window, "transform.0.window": window}
        buffer = io.BytesIO()
        torch.save(state, buffer, _use_new_zipfile_serialization=not old)
        contents[target] = buffer.getvalue()
    return contents


@pytest.mark.parametrize(("name", "hidden_size", "old"), [
    ("umxhq", 512, True), pytest.param("umxl", 1024, False, marks=pytest.mark.heavy),
])  # fmt: skip
def test_true_shapes_download_and_separate(tmp_path: Path, mirror: Mirror, name: str, hidden_size: int, old: bool) -> None:
    contents = true_files(hidden_size, old=old)
    store = ModelStore(tmp_path / "models", mirror.url)
    store.offers[name] = published(mirror, store.offers[name], contents)
    loaded = loading.load(store.download(name, accept_licence=True), cache=tmp_path / "cache")
    stems = separated(loaded, 1.0)
    audio = made_mixture(1.0)
    assert loaded.backend.targets == TARGETS
    assert stems.shape == (len(audio), 4, 2)
    assert np.isfinite(stems).all()
    assert all(np.std(stems[:, k]) > 0 for k in range(4))
    for target, net in loading.targets(loaded.model).items():
        original = torch.load(io.BytesIO(contents[target]), weights_only=True)
        assert net.get_parameter("fc2.weight").shape == (hidden_size, 2 * hidden_size)
        assert all(torch.equal(value, original[key]) for key, value in net.state_dict().items())


# Weights of unknown origin


class _Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def _save_trap_in_torch_format(trap: object, file: Path) -> None:
    torch.save({"fc1.weight": trap}, file)


def _save_trap_as_plain_pickle(trap: object, file: Path) -> None:
    file.write_bytes(pickle.dumps(trap, protocol=2))


@pytest.mark.parametrize("save", [_save_trap_in_torch_format, _save_trap_as_plain_pickle])
def test_code_in_weights_does_not_run(tmp_path: Path, save: Callable[[object, Path], None]) -> None:
    sprung, file = tmp_path / "sprung", tmp_path / "vocals.pth"
    save(_Trap(sprung), file)
    with pytest.raises(ModelError, match=r"vocals\.pth: damaged, or not weights of Open-Unmix"):
        loading.load(ModelStore().find(str(tmp_path)), cache=tmp_path / "cache")
    assert not sprung.exists()


def test_the_trap_is_one(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(_Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").exists()


def bytes_of(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("content", [
    pytest.param(b"", id="empty"),
    pytest.param(b"these are no weights\n", id="text"),
    pytest.param(bytes_of(random_network(0).state_dict())[:-1000], id="end cut off"),
    pytest.param(bytes_of(random_network(0).state_dict())[:100], id="all but the start cut off"),
    pytest.param(bytes_of([torch.zeros(3)]), id="list"),
    pytest.param(bytes_of({"epoch": 3, "state_dict": random_network(0).state_dict()}), id="checkpoint of a training"),
    pytest.param(bytes_of(random_network(0).state_dict() | {"fc9.weight": torch.zeros(3)}), id="unknown key"),
    pytest.param(bytes_of({k: v for k, v in random_network(0).state_dict().items() if k != "fc2.weight"}), id="key missing"),
    pytest.param(bytes_of(random_network(0).state_dict() | {"fc2.weight": torch.zeros(3)}), id="another shape"),
])  # fmt: skip
@pytest.mark.parametrize("quantization", ["int8", "fp32"])
def test_what_is_not_weights_is_refused_by_name(tmp_path: Path, content: bytes, quantization: str) -> None:
    (tmp_path / "vocals.pth").write_bytes(content)
    with pytest.raises(ModelError, match=f"^{tmp_path}/vocals.pth: damaged, or not weights of Open-Unmix"):
        loading.load(ModelStore().find(str(tmp_path)), Options(quantization=quantization), cache=tmp_path / "cache")


def test_mono_network_is_refused_by_name(tmp_path: Path) -> None:
    model: Any = type(random_network(0))
    torch.save(model(nb_bins=2049, nb_channels=1, hidden_size=32, max_bin=1487).state_dict(), tmp_path / "vocals.pth")
    with pytest.raises(ModelError, match=r"vocals\.pth: not a network for stereo.*--nb-channels 2"):
        loading.load(ModelStore().find(str(tmp_path)), cache=tmp_path / "cache")


def test_file_that_is_a_folder_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "vocals.pth").mkdir()
    with pytest.raises(ModelError, match=r"vocals\.pth: Is a directory"):
        loading.load(ModelStore().find(str(tmp_path)), cache=tmp_path / "cache")


# The small form of weights


def test_packed_matrices_load_as_their_steps(tmp_path: Path) -> None:
    state, expected = {}, {}
    for name, value in random_network(0).state_dict().items():
        state[name] = expected[name] = value
        if value.ndim == 2:
            scale = value.abs().max() / 127
            state[name], state[f"{name}.scale"] = torch.round(value / scale).to(torch.int8), scale
            expected[name] = state[name].float() * scale
    torch.save(state, tmp_path / "vocals.pth")
    loaded = load_target(tmp_path / "vocals.pth").state_dict()
    assert any(value.dtype == torch.int8 for value in state.values())
    assert set(loaded) == set(expected)
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_buffers_of_old_files_are_dropped(tmp_path: Path) -> None:
    state = random_network(0).state_dict()
    extra = {"sample_rate": torch.tensor(44100.0), "stft.window": torch.ones(4096), "transform.0.window": torch.ones(4096)}
    torch.save(state | extra, tmp_path / "vocals.pth")
    assert set(load_target(tmp_path / "vocals.pth").state_dict()) == set(state)


# The cache of quantized weights


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Two very small targets."""
    folder = tmp_path_factory.mktemp("two")
    for seed, target in enumerate(TARGETS[:2]):
        torch.save(random_network(seed, 16).state_dict(), folder / f"{target}.pth")
    return ModelStore().find(str(folder))


@pytest.fixture(scope="module")
def filled(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache after one load; not to be written to."""
    cache = tmp_path_factory.mktemp("cache")
    loading.load(model, cache=cache)
    return cache


@pytest.fixture(scope="module")
def expected(model: Model, tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.float32]:
    """What the model separates when it has just been built."""
    return separated(loading.load(model, cache=tmp_path_factory.mktemp("other_cache")))


@pytest.fixture
def cached(filled: Path, tmp_path: Path) -> Path:
    """The cached file, in a copy of that cache."""
    (path,) = shutil.copytree(filled, tmp_path / "cache").glob("*.pt")
    return path


def test_second_load_takes_the_file(model: Model, expected: NDArray[np.float32], cached: Path) -> None:
    before = cached.stat()
    assert np.array_equal(separated(loading.load(model, cache=cached.parent)), expected)
    assert (cached.stat().st_ino, cached.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_what_nobody_loads_any_more_leaves_the_cache(model: Model, cached: Path) -> None:
    """When another model comes in; what was loaded lately stays, however old it is."""
    long_ago = time.time() - 90 * 86400
    gone = {cached.with_name(name) for name in ("gone-torch1.pt", "gone-torch1.sha256", ".gone-torch1.pt.4711")}
    for path in gone:
        path.write_bytes(b"of a model that was removed")
    before = set(cached.parent.iterdir())
    for path in before:
        os.utime(path, (long_ago, long_ago))
    loading.load(model, cache=cached.parent)
    assert set(cached.parent.iterdir()) == before
    cached.with_suffix(".sha256").write_text("damaged, so that it is built again")
    loading.load(model, cache=cached.parent)
    assert set(cached.parent.iterdir()) == before - gone


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)


def _flip_middle(path: Path) -> None:
    _flip(path, path.stat().st_size // 2)


def _flip_in_the_archive_directory(path: Path) -> None:
    _flip(path, path.read_bytes().index(b"PK\x01\x02") + 46)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _other_content(path: Path) -> None:
    path.write_text("not a script")


@pytest.mark.parametrize("damage", [_cut, _flip_middle, _flip_in_the_archive_directory, _empty, _other_content])
def test_damaged_cache_is_built_again(
    model: Model, expected: NDArray[np.float32], cached: Path, damage: Callable[[Path], None]
) -> None:
    damage(cached)
    damaged = cached.read_bytes()
    assert np.array_equal(separated(loading.load(model, cache=cached.parent)), expected)
    assert cached.read_bytes() != damaged
    rebuilt = cached.stat().st_mtime_ns
    loading.load(model, cache=cached.parent)
    assert cached.stat().st_mtime_ns == rebuilt


def test_file_of_another_torch_is_not_taken(model: Model, cached: Path) -> None:
    assert torch.__version__ in cached.name
    for path in (cached, cached.with_suffix(".sha256")):
        path.rename(path.with_name(path.name.replace(torch.__version__, "1.0.0")))
    loading.load(model, cache=cached.parent)
    assert cached.exists()


def test_other_weights_do_not_meet_the_file(model: Model, cached: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model.folder, tmp_path / "other" / model.name)
    shutil.copy(folder / "vocals.pth", folder / "drums.pth")
    stems = separated(loading.load(ModelStore().find(str(folder)), cache=cached.parent))
    np.testing.assert_allclose(stems[:, 0], stems[:, 1], atol=1e-6)
    assert len(list(cached.parent.glob("*.pt"))) == 2


def test_loads_where_no_cache_can_be(model: Model, expected: NDArray[np.float32], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    assert np.array_equal(separated(loading.load(model, cache=tmp_path / "cache")), expected)


def test_full_disk_leaves_no_piece_of_a_cache(model: Model, tmp_path: Path) -> None:
    with full_disk(100_000):
        loading.load(model, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_fp32_needs_no_cache(model: Model, expected: NDArray[np.float32], tmp_path: Path) -> None:
    stems = separated(loading.load(model, Options(quantization="fp32"), cache=tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()
    assert not np.array_equal(stems, expected)
    np.testing.assert_allclose(stems, expected, atol=0.05)


def test_damaged_weights_are_refused_before_the_cache_is_asked(weights: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(weights, tmp_path / "weights")
    (folder / SUMS).write_text("".join(f"{'0' * 64}  {target}.pth\n" for target in TARGETS))
    with pytest.raises(ModelError, match=r"vocals\.pth: damaged weights of weights"):
        loading.load(ModelStore().find(str(folder)), cache=tmp_path / "cache")
