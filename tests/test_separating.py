"""The process that separates: which model stays loaded."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from demixr_daemon import configuration
from demixr_daemon.settings import Options
from demixr_daemon.worker.separating import Separating


@pytest.fixture
def separating(tmp_path: Path, weights: Path) -> Separating:
    config = tmp_path / "config.yaml"
    config.write_text(f"directory: {tmp_path}\nlibrary: {tmp_path / 'library.db'}\ndemix:\n  model: {weights}\n")
    return Separating(configuration.read(config))


def test_a_model_stays_loaded_until_other_settings_count(separating: Separating, weights: Path) -> None:
    options = Options(model=str(weights), threads=1)
    first = separating._model(options)
    for change in ({"format": "wav"}, {"niter": 1}):  # which is what this model does best with
        assert separating._model(dataclasses.replace(options, **change)) is first
    for change in ({"threads": 2}, {"niter": 0}, {"quantization": "fp32"}):
        changed = dataclasses.replace(options, **change)
        loaded = separating._model(changed)
        assert loaded is not first
        assert separating._model(changed) is loaded
