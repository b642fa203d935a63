"""Chunks, batches and windows leave no trace: the stream gives what upstream gives on the whole track."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from demixr_daemon.separation import loading, openunmix
from demixr_daemon.separation.channels import downmix_matrix
from demixr_daemon.separation.loading import LoadedModel
from demixr_daemon.separation.openunmix import Networks
from demixr_daemon.separation.separator import Grid, OpenUnmixBackend
from demixr_daemon.settings import TARGETS
from tests.conftest import random_network, sdr_db
from tests.made_song import made_mixture

WHOLE = Grid(chunk_frames=10_000_000, batch=1)
STEREO = np.eye(2, dtype=np.float32)


def run(backend: OpenUnmixBackend, audio: NDArray[np.float32], downmix: NDArray[np.float32] = STEREO, block: int = 10_000):
    blocks = (audio[start : start + block] for start in range(0, len(audio), block))
    return np.concatenate(list(backend.separate(blocks, downmix)))[: len(audio)]


@pytest.fixture(scope="module")
def nets() -> dict[str, torch.nn.Module]:
    return {target: random_network(seed) for seed, target in enumerate(TARGETS)}


@pytest.mark.parametrize("niter", [0, 1, 2])
def test_whole_track_is_upstream(nets: dict[str, torch.nn.Module], niter: int) -> None:
    audio = made_mixture(9.0)
    with torch.inference_mode():
        expected = openunmix.reference(nets, niter)(torch.from_numpy(audio.T.copy())[None])[0].permute(2, 0, 1).numpy()
    ours = run(OpenUnmixBackend(Networks(nets), TARGETS, niter=niter, grid=WHOLE), audio)
    assert sdr_db(expected, ours) > 80


@pytest.mark.parametrize("grid", [Grid(chunk_frames=60, context_frames=40, batch=1),
                                  Grid(chunk_frames=60, context_frames=40, batch=3),
                                  Grid(chunk_frames=100, context_frames=40, batch=2, offset_frames=33),
                                  Grid(chunk_frames=1, context_frames=64, batch=5),
                                  Grid()])  # fmt: skip
@pytest.mark.parametrize("seconds", [0.02, 0.5, 3.3, 8.0])
def test_no_grid_shows(nets: dict[str, torch.nn.Module], grid: Grid, seconds: float) -> None:
    audio = made_mixture(seconds)
    whole = run(OpenUnmixBackend(Networks(nets), TARGETS, grid=WHOLE), audio)
    chunked = run(OpenUnmixBackend(Networks(nets), TARGETS, grid=grid), audio)
    assert chunked.shape == (len(audio), 4, 2)
    difference = np.sum(np.square(whole - chunked))
    assert difference <= 1e-6 * np.sum(np.square(whole))


def test_trained_networks_on_a_shifted_grid(embedded: LoadedModel) -> None:
    """Trained LSTMs remember; the context must be long enough for them. A track longer than the longest window."""
    audio = made_mixture(80.0)
    outputs = []
    for offset in (0, 171):
        model = loading.load(embedded.model, grid=Grid(offset_frames=offset))
        assert isinstance(model.backend, OpenUnmixBackend)
        outputs.append(run(model.backend, audio))
    assert sdr_db(outputs[0], outputs[1]) > 35


def test_blocks_do_not_matter(nets: dict[str, torch.nn.Module]) -> None:
    audio = made_mixture(2.0)
    backend = OpenUnmixBackend(Networks(nets), TARGETS)
    np.testing.assert_allclose(run(backend, audio, block=1234), run(backend, audio, block=10**9), atol=1e-6)


def test_mono_is_both_channels_alike(nets: dict[str, torch.nn.Module]) -> None:
    audio = made_mixture(2.0, channels=1)
    backend = OpenUnmixBackend(Networks(nets), TARGETS)
    mono = run(backend, audio, downmix_matrix(("FC",)))
    stereo = run(backend, np.repeat(audio, 2, axis=1))
    assert mono.shape == (len(audio), 4, 1)
    np.testing.assert_allclose(mono[..., 0], stereo.mean(axis=2), atol=1e-5)


def test_six_channels_are_shared_out(nets: dict[str, torch.nn.Module]) -> None:
    """Every channel is given away whole: the targets of each sum to it."""
    audio = made_mixture(2.0, channels=6)
    layout = ("FL", "FR", "FC", "LFE", "BL", "BR")
    stems = run(OpenUnmixBackend(Networks(nets), TARGETS), audio, downmix_matrix(layout))
    assert stems.shape == (len(audio), 4, 6)
    assert sdr_db(audio, stems.sum(axis=1)) > 60


def test_one_target_leaves_the_rest_to_other() -> None:
    audio = made_mixture(2.0)
    backend = OpenUnmixBackend(Networks({"vocals": random_network(0)}), ("vocals",))
    assert backend.targets == ("vocals", "other")
    assert sdr_db(audio, run(backend, audio).sum(axis=1)) > 45


def test_silence_stays_silent(nets: dict[str, torch.nn.Module]) -> None:
    assert not np.any(run(OpenUnmixBackend(Networks(nets), TARGETS), np.zeros((50_000, 2), np.float32)))
