"""Chunks, batches and windows leave no trace: the stream gives what upstream gives on the whole track."""

from __future__ import annotations

import copy
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from demixr_daemon.errors import AudioError, SettingError
from demixr_daemon.separation import loading, openunmix, separator
from demixr_daemon.separation.channels import downmix_matrix
from demixr_daemon.separation.chunks import Grid
from demixr_daemon.separation.int8 import Int8Network, quantize
from demixr_daemon.separation.loading import LoadedModel
from demixr_daemon.separation.networks import FloatNetwork, Network
from demixr_daemon.separation.separator import Backend, OpenUnmixBackend
from demixr_daemon.settings import TARGETS, Options
from tests.conftest import random_network, sdr_db
from tests.made_song import made_mixture

WHOLE = Grid(chunk_frames=10_000_000)
STEREO = np.eye(2, dtype=np.float32)


def run(backend: Backend, audio: NDArray[np.float32], downmix: NDArray[np.float32] = STEREO, block: int = 10_000):
    blocks = [audio[start : start + block] for start in range(0, len(audio), block)]
    return np.concatenate(list(backend.separate(blocks, blocks, downmix)))[: len(audio)]


@pytest.fixture(scope="module")
def trained() -> dict[str, torch.nn.Module]:
    """Networks as openunmix makes them."""
    return {target: random_network(seed) for seed, target in enumerate(TARGETS)}


@pytest.fixture(scope="module")
def nets(trained: dict[str, torch.nn.Module]) -> dict[str, Network]:
    return {target: FloatNetwork(net) for target, net in trained.items()}


@pytest.fixture(scope="module")
def small_nets(trained: dict[str, torch.nn.Module]) -> dict[str, Network]:
    return {target: Int8Network(quantize(net)) for target, net in trained.items()}


@pytest.mark.parametrize("niter", [0, 1, 2])
def test_whole_track_is_upstream(trained: dict[str, torch.nn.Module], nets: dict[str, Network], niter: int) -> None:
    audio = made_mixture(9.0)
    with torch.inference_mode():
        expected = openunmix.reference(trained, niter)(torch.from_numpy(audio.T.copy())[None])[0].permute(2, 0, 1).numpy()
    ours = run(OpenUnmixBackend(nets, niter=niter), audio)
    assert sdr_db(expected, ours) > 80


def test_int8_is_nearly_upstream(trained: dict[str, torch.nn.Module], small_nets: dict[str, Network]) -> None:
    audio = made_mixture(9.0)
    with torch.inference_mode():
        expected = openunmix.reference(trained, 1)(torch.from_numpy(audio.T.copy())[None])[0].permute(2, 0, 1).numpy()
    assert sdr_db(expected, run(OpenUnmixBackend(small_nets), audio)) > 40


def test_half_precision_is_nearly_upstream(trained: dict[str, torch.nn.Module], nets: dict[str, Network]) -> None:
    """What a GPU does, on the processor."""
    audio = made_mixture(9.0)
    halves = {target: FloatNetwork(copy.deepcopy(net), dtype=torch.float16) for target, net in trained.items()}
    assert sdr_db(run(OpenUnmixBackend(nets), audio), run(OpenUnmixBackend(halves), audio)) > 60


@pytest.mark.parametrize("quantization", ["fp16", "fp32"])
def test_on_a_gpu(embedded: LoadedModel, quantization: str) -> None:
    options = Options(device="cuda", quantization=quantization)
    if not torch.cuda.is_available():
        with pytest.raises(SettingError, match=r"^demix\.device: torch .* finds no CUDA device; take device: cpu"):
            loading.load(embedded.model, options)
        return
    audio = made_mixture(30.0)
    plain = loading.load(embedded.model, Options(quantization="fp32"))
    assert sdr_db(run(plain.backend, audio), run(loading.load(embedded.model, options).backend, audio)) > 50


def test_memory_buys_longer_chunks(embedded: LoadedModel) -> None:
    grids = []
    for megabytes in (1, 100_000):
        backend = loading.load(embedded.model, Options(memory=megabytes)).backend
        assert isinstance(backend, OpenUnmixBackend)
        grids.append(backend.grid)
    assert grids[0] == Grid()
    assert grids[1].chunk_frames > 2 * Grid().chunk_frames
    assert grids[1].ahead_frames == Grid().ahead_frames


def test_precision_and_device_must_fit() -> None:
    with pytest.raises(SettingError, match=r"^demix\.quantization: int8 does not run on cuda; take fp16"):
        Options(device="cuda")
    with pytest.raises(SettingError, match=r"^demix\.quantization: fp16 does not run on cpu; take int8"):
        Options(quantization="fp16")


def test_one_direction_alone() -> None:
    """Networks of openunmix's ``--unidirectional`` need nothing of what comes."""
    net = random_network(0, unidirectional=True)
    audio = made_mixture(5.0)
    with torch.inference_mode():
        expected = openunmix.reference({"other": net}, 0)(torch.from_numpy(audio.T.copy())[None])[0].permute(2, 0, 1).numpy()
    for network, least_db in ((FloatNetwork(net), 80), (Int8Network(quantize(net)), 40)):
        backend = OpenUnmixBackend({"other": network}, niter=0, grid=Grid(chunk_frames=60, ahead_frames=1))
        assert sdr_db(expected, run(backend, audio)) > least_db


@pytest.mark.parametrize("grid", [Grid(chunk_frames=60, ahead_frames=40),
                                  Grid(chunk_frames=100, ahead_frames=40, offset_frames=33),
                                  Grid(chunk_frames=1, ahead_frames=64),
                                  Grid()])  # fmt: skip
@pytest.mark.parametrize("seconds", [0.02, 0.5, 3.3, 8.0])
def test_no_grid_shows(nets: dict[str, Network], grid: Grid, seconds: float) -> None:
    audio = made_mixture(seconds)
    whole = run(OpenUnmixBackend(nets, grid=WHOLE), audio)
    chunked = run(OpenUnmixBackend(nets, grid=grid), audio)
    assert chunked.shape == (len(audio), 4, 2)
    difference = np.sum(np.square(whole - chunked))
    assert difference <= 1e-6 * np.sum(np.square(whole))


@pytest.mark.parametrize("niter", [0, 1])
def test_a_slow_inverse_transform_sees_its_own_masks(
    nets: dict[str, Network], niter: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = made_mixture(50.0)  # seven windows
    backend = OpenUnmixBackend(nets, niter=niter, threads=3)
    expected = run(backend, audio)
    transformed = separator._transformed

    def slowly(*arguments: Any) -> Any:
        time.sleep(0.02)
        return transformed(*arguments)

    monkeypatch.setattr(separator, "_transformed", slowly)
    np.testing.assert_array_equal(run(backend, audio), expected)


def test_a_chunk_is_gone_before_the_next_is_made(trained: dict[str, torch.nn.Module]) -> None:
    rooms: list[weakref.ref[NDArray[Any]]] = []
    alive: list[int] = []

    class Watched(FloatNetwork):
        def hidden(self, frames: int) -> torch.Tensor:
            alive.append(sum(room() is not None for room in rooms))
            room = np.empty((frames, 32), np.float32)
            rooms.append(weakref.ref(room))
            return torch.from_numpy(room)

    run(OpenUnmixBackend({"vocals": Watched(copy.deepcopy(trained["vocals"]))}, grid=Grid(700, 0)), made_mixture(60.0))
    assert alive == [0, 1, 1] * 4  # of each layer the one below


def test_threads_change_nothing(nets: dict[str, Network], small_nets: dict[str, Network]) -> None:
    audio = made_mixture(8.0)
    for networks in (nets, small_nets):
        alone, shared = (run(OpenUnmixBackend(networks, threads=threads), audio) for threads in (1, 3))
        np.testing.assert_array_equal(alone, shared)


def test_blocks_do_not_matter(nets: dict[str, Network]) -> None:
    audio = made_mixture(2.0)
    backend = OpenUnmixBackend(nets)
    np.testing.assert_allclose(run(backend, audio, block=1234), run(backend, audio, block=10**9), atol=1e-6)


def test_mono_is_both_channels_alike(nets: dict[str, Network]) -> None:
    audio = made_mixture(2.0, channels=1)
    backend = OpenUnmixBackend(nets)
    mono = run(backend, audio, downmix_matrix(("FC",)))
    stereo = run(backend, np.repeat(audio, 2, axis=1))
    assert mono.shape == (len(audio), 4, 1)
    np.testing.assert_allclose(mono[..., 0], stereo.mean(axis=2), atol=1e-5)


def test_six_channels_are_shared_out(nets: dict[str, Network]) -> None:
    """Every channel is given away whole: the targets of each sum to it."""
    audio = made_mixture(2.0, channels=6)
    layout = ("FL", "FR", "FC", "LFE", "BL", "BR")
    stems = run(OpenUnmixBackend(nets), audio, downmix_matrix(layout))
    assert stems.shape == (len(audio), 4, 6)
    assert sdr_db(audio, stems.sum(axis=1)) > 60


def test_one_target_leaves_the_rest_to_other() -> None:
    audio = made_mixture(2.0)
    backend = OpenUnmixBackend({"vocals": FloatNetwork(random_network(0))})
    assert backend.targets == ("vocals", "other")
    assert sdr_db(audio, run(backend, audio).sum(axis=1)) > 45


def test_silence_stays_silent(nets: dict[str, Network]) -> None:
    assert not np.any(run(OpenUnmixBackend(nets), np.zeros((50_000, 2), np.float32)))


def test_trained_networks_on_a_shifted_grid(embedded: LoadedModel) -> None:
    """Trained LSTMs remember; what is heard ahead must be long enough for them, here a quarter of what it is."""
    audio = made_mixture(80.0)
    outputs = []
    for offset in (0, 701):
        grid = Grid(chunk_frames=1024, ahead_frames=Grid().ahead_frames // 4, offset_frames=offset)
        outputs.append(run(loading.load(embedded.model, grid=grid).backend, audio))
    assert sdr_db(outputs[0], outputs[1]) > 45


def test_a_scale_may_be_negative() -> None:
    """openunmix learns the scale of its inputs, and nothing keeps it above zero."""
    net = random_network(0)
    with torch.no_grad():
        net.input_scale[::2] *= -1
    audio = made_mixture(3.0)
    plain, small = (run(OpenUnmixBackend({"vocals": network}, niter=0), audio)
                    for network in (FloatNetwork(net), Int8Network(quantize(net))))  # fmt: skip
    assert sdr_db(plain, small) > 40


def test_nothing_stays_behind_when_the_audio_breaks_off(nets: dict[str, Network]) -> None:
    def broken() -> Iterator[NDArray[np.float32]]:
        yield made_mixture(2.0)
        raise AudioError("damaged")

    before = threading.active_count()
    for _ in range(2):
        with pytest.raises(AudioError, match="damaged"):
            list(OpenUnmixBackend(nets).separate(broken(), broken(), STEREO))
    assert threading.active_count() == before
