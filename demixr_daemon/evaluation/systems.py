"""What is compared: models as a user runs them, and the unseparated mixture."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from demixr_daemon import pipeline
from demixr_daemon.evaluation.songs import Song, stereo
from demixr_daemon.separation.decode import Block, open_track
from demixr_daemon.separation.models import Model
from demixr_daemon.settings import Options

Progress = Callable[[float], None]
"""Called with the part that is done, 0..1."""


class System(Protocol):
    """Something that makes stems of a song."""

    @property
    def name(self) -> str:
        """What to call it in tables."""

    def separate(self, song: Song, progress: Progress) -> Mapping[str, Block]:
        """Target → estimate, (samples, 2), as long as the song."""


class Mixture:
    """Does nothing, and gives the mixture as every stem: what a model has to beat."""

    name = "mixture"

    def separate(self, song: Song, progress: Progress) -> Mapping[str, Block]:
        return dict.fromkeys((*song.references, *song.left_out), song.mixture)


class Separator:
    """A model through the same pipeline as everybody's tracks: chunks, quantization, filter, the rest to ``other``.

    :raises ModelError: the weights are damaged.
    """

    def __init__(self, model: Model, quantization: str = "int8", niter: str = "auto", threads: int = 0) -> None:
        self.model = model
        self.name = f"{model.name} {quantization}" + ("" if niter == "auto" else f" niter {niter}")
        # without a network of its own, "other" is what the rest leaves, which is no true one to compare with
        self._options = Options(quantization=quantization, niter=niter, threads=threads, format="wav", bits="float",
                                targets=tuple(model.weights))  # fmt: skip
        self._loaded = pipeline.load(model, self._options)

    def separate(self, song: Song, progress: Progress) -> Mapping[str, Block]:
        """:raises AudioError: the mixture cannot be separated."""
        with tempfile.TemporaryDirectory(prefix="demixr-evaluate-") as folder:
            mixture = Path(folder) / "mixture.wav"
            song.write_mixture(mixture)
            made = pipeline.demix(mixture, self._loaded, self._options,
                                  progress=lambda done, _: progress(done / len(song.mixture)))  # fmt: skip
            return {target: stereo(open_track(made.path(target))) for target in made.files}
