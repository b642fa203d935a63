"""The recurrent kernel gives what torch's LSTM gives on the same weights."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from numba.core.codegen import get_host_cpu_features

from demixr_daemon.separation import lstm
from demixr_daemon.separation.lstm import STEP, ZERO


@pytest.mark.parametrize("units", [4, 24, 32, 100, 256])
@pytest.mark.parametrize("reverse", [False, True])
def test_one_direction_is_torchs(units: int, reverse: bool) -> None:
    rng = np.random.default_rng(units)
    weights = rng.integers(-127, 128, (4 * units, units)).astype(np.int8)
    scales = rng.uniform(0.5, 1.5, 4 * units).astype(np.float32) * STEP / 127 / units**0.5
    gates = rng.standard_normal((50, 4 * units), np.float32)
    torchs = torch.nn.LSTM(4 * units, units)
    with torch.no_grad():
        torchs.weight_ih_l0.copy_(torch.eye(4 * units))
        torchs.weight_hh_l0.copy_(torch.from_numpy(weights * scales[:, None] / STEP))
        torchs.bias_ih_l0.zero_()
        torchs.bias_hh_l0.zero_()
        expected = torchs(torch.from_numpy(gates[::-1].copy() if reverse else gates))[0].numpy()
    offset = ZERO * scales * weights.sum(1, dtype=np.int32)
    shifted = np.ascontiguousarray(lstm.by_block((gates - offset.astype(np.float32)).T).T)
    hidden, cell = np.full(lstm.padded(units), ZERO, np.uint8), np.zeros(lstm.padded(units), np.float32)
    outputs = np.empty((50, units), np.uint8)
    first, second = (slice(30, 50), slice(0, 30)) if reverse else (slice(0, 30), slice(30, 50))
    for part in (first, second):  # the state carries on
        lstm.run(shifted[part], lstm.pack(weights), lstm.by_block(scales), hidden, cell, outputs[part], reverse)
    ours = (outputs.astype(np.float32) - ZERO) * STEP
    assert np.abs((ours[::-1] if reverse else ours) - expected).max() < 3 * STEP


def test_tanh() -> None:
    x = np.linspace(-20, 20, 100_001, dtype=np.float32)
    assert np.abs([lstm.tanh(value) for value in x[::50]] - np.tanh(x[::50])).max() < 1.1e-4


@pytest.mark.parametrize(
    ("features", "isa"), [("+avx512f,+avx512bw,+avx512vl,+avx512vnni,+prefer-256-bit", ""), ("+avx2,+fma", "AVX2")]
)
def test_other_processors(features: str, isa: str) -> None:
    """The same, in a process that is told to do without the widest instructions."""
    if not set(features.replace(",+prefer-256-bit", "").split(",")) <= set(get_host_cpu_features().split(",")):
        pytest.skip("this processor is one of them")
    env = {"NUMBA_CPU_FEATURES": features, "NUMBA_CPU_NAME": "x86-64-v3", "ONEDNN_MAX_CPU_ISA": isa}
    chosen = [__file__, "tests/test_separator.py", "-k", "torchs or int8 or one_direction"]
    command = [sys.executable, "-m", "pytest", "-q", *chosen]
    answer = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout
