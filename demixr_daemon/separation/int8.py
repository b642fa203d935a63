"""Open-Unmix in 8-bit integers.

Weights are rounded to 255 steps of their own for each row; activations of the LSTM, which lie between -1 and 1, to 255 steps of
that; spectra, whose range is that of music, to 255 steps of the loudest bin of their frame, so that a quiet frame never depends
on its neighbours. Batch normalization and the scaling of inputs and outputs become part of the steps. The matrix products are
oneDNN's; the recurrent part is :mod:`.lstm`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor, nn

from demixr_daemon.separation import lstm
from demixr_daemon.separation.compiled import SETTINGS
from demixr_daemon.separation.lstm import STEP, ZERO
from demixr_daemon.separation.stft import BINS

_GATE_FRAMES = 128
"""Frames whose gates are computed at a time: they stay in the second-level cache."""
_MASK_FRAMES = 50
"""Frames whose masks are computed at a time, for the same reason."""
_LOUDEST = 255 if ZERO == 128 else 127  # the largest unsigned activation, see lstm.ZERO
_SMALLEST = 1e-30  # silence has a step, too

State = dict[str, Tensor]


@torch.no_grad()
def quantize(net: Any) -> State:
    """The parameters of an Open-Unmix target, weight matrices as int8 with a step per row; all of :class:`Int8Network`."""
    state: State = {"input_scale": net.input_scale.abs()}  # its sign goes into the weights: what is rounded is not negative

    def matrix(name: str, weight: Tensor) -> None:
        steps = weight.abs().amax(1).clamp(min=_SMALLEST) / 127
        state[name] = (weight / steps[:, None]).round().to(torch.int8)
        state[f"{name}.steps"] = steps

    factor, shift = _affine(net.bn1)
    offset = net.fc1.weight @ (net.input_mean * net.input_scale).repeat(2)
    matrix("fc1", net.fc1.weight * factor[:, None] * net.input_scale.sign().repeat(2))
    state["fc1.bias"] = offset * factor + shift
    for layer in range(net.lstm.num_layers):
        for suffix in ("", "_reverse")[: 2 if net.lstm.bidirectional else 1]:
            name = f"l{layer}{suffix}"
            matrix(f"ih_{name}", getattr(net.lstm, f"weight_ih_{name}"))
            matrix(f"hh_{name}", getattr(net.lstm, f"weight_hh_{name}"))
            state[f"ih_{name}.bias"] = getattr(net.lstm, f"bias_ih_{name}") + getattr(net.lstm, f"bias_hh_{name}")
    factor, shift = _affine(net.bn2)
    matrix("fc2", net.fc2.weight * factor[:, None])
    state["fc2.bias"] = shift
    factor, shift = _affine(net.bn3)
    scale, mean = net.output_scale.repeat(2), net.output_mean.repeat(2)
    matrix("fc3", net.fc3.weight * (factor * scale)[:, None])
    state["fc3.bias"] = shift * scale + mean
    return state


def _affine(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """What batch normalization does at inference: times a factor, plus a shift."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    factor = norm.weight / torch.sqrt(variance + norm.eps)
    return factor, norm.bias - mean * factor


class _Linear:
    """``uint8 @ int8`` to float32.

    :param bias: added to the product; None for none.
    :param step: what one step of the activations is worth.
    :param zero: which of them stands for 0.
    """

    def __init__(self, state: State, name: str, bias: Tensor | None, *, step: float, zero: int, relu: bool = False) -> None:
        weight = state[name]
        self._weight = torch.ops.onednn.qlinear_prepack(weight, None)
        self._steps = state[f"{name}.steps"]
        self._zeros = torch.zeros(len(weight), dtype=torch.int32)
        self._bias = bias
        self._activations = (step, zero)
        self._post = "relu" if relu else "none"

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            x, *self._activations, self._weight, self._steps, self._zeros, self._bias, 1.0, 0, torch.float32, self._post, [], ""
        )
        return y


@dataclass(frozen=True)
class _Direction:
    """One direction of one LSTM layer."""

    inputs: _Linear
    recurrent: Any
    scales: Any
    units: int


class Int8Network:
    """See :class:`~demixr_daemon.separation.networks.Network`; activations are uint8."""

    def __init__(self, state: State) -> None:
        """From what :func:`quantize` gave."""
        self._input_scale = state["input_scale"].numpy()
        self._fc1 = _Linear(state, "fc1", None, step=1.0, zero=0)
        self._fc1_bias = state["fc1.bias"].numpy()
        self._fc2 = _Linear(state, "fc2", state["fc2.bias"], step=STEP, zero=ZERO, relu=True)
        self._fc3 = _Linear(state, "fc3", None, step=1.0, zero=0)
        self._fc3_bias = state["fc3.bias"].numpy()
        self.directions = 2 if "ih_l0_reverse" in state else 1
        suffixes = ("", "_reverse")[: self.directions]
        self.layers = sum(name.startswith("hh_l") for name in state) // (2 * self.directions)  # each with its steps
        self._lstm = [[_direction(state, f"l{layer}{suffix}") for suffix in suffixes] for layer in range(self.layers)]

    def encode(self, magnitudes: Tensor) -> Tensor:
        """See :meth:`~demixr_daemon.separation.networks.Network.encode`."""
        bins = len(self._input_scale)
        rounded = torch.empty(len(magnitudes), 2 * bins, dtype=torch.uint8)
        steps = np.empty(len(magnitudes), np.float32)
        _round_spectra(magnitudes.numpy(), self._input_scale, rounded.numpy(), steps)
        product = self._fc1(rounded)
        features = torch.empty(product.shape, dtype=torch.uint8)
        _activate(product.numpy(), steps, self._fc1_bias, features.numpy())
        return features

    def hidden(self, frames: int) -> Tensor:
        """See :meth:`~demixr_daemon.separation.networks.Network.hidden`."""
        return torch.empty(frames, self.directions * self._lstm[0][0].units, dtype=torch.uint8)

    def run(self, layer: int, reverse: bool, inputs: Tensor, state: Any, outputs: Tensor | None) -> Any:
        """See :meth:`~demixr_daemon.separation.networks.Network.run`."""
        direction = self._lstm[layer][reverse]
        units = direction.units
        if state is None:
            hidden, cell = np.full(lstm.padded(units), ZERO, np.uint8), np.zeros(lstm.padded(units), np.float32)
        else:
            hidden, cell = (part.copy() for part in state)
        if outputs is None:
            outputs = torch.empty(len(inputs), units, dtype=torch.uint8)
            given = outputs.numpy()
        else:
            given = outputs[:, reverse * units : (reverse + 1) * units].numpy()
        starts = range(0, len(inputs), _GATE_FRAMES)
        for start in reversed(starts) if reverse else starts:
            part = slice(start, start + _GATE_FRAMES)
            gates = direction.inputs(inputs[part])
            lstm.run(gates.numpy(), direction.recurrent, direction.scales, hidden, cell, given[part], reverse)
        return hidden, cell

    def mask(self, features: Tensor, hidden: Tensor, masks: Tensor) -> None:
        """See :meth:`~demixr_daemon.separation.networks.Network.mask`."""
        for start in range(0, len(masks), _MASK_FRAMES):
            part = slice(start, start + _MASK_FRAMES)
            x = self._fc2(torch.cat([features[part], hidden[part]], 1))
            rounded = torch.empty(x.shape, dtype=torch.uint8)
            steps = np.empty(len(x), np.float32)
            _round_rows(x.numpy(), rounded.numpy(), steps)
            product = self._fc3(rounded).view(-1, 2, BINS)
            _rectify(product.numpy(), steps, self._fc3_bias.reshape(2, BINS), masks[part].numpy())


def _direction(state: State, name: str) -> _Direction:
    recurrent = state[f"hh_{name}"]
    scales = state[f"hh_{name}.steps"] * STEP
    bias = state[f"ih_{name}.bias"] - ZERO * scales * recurrent.sum(1, dtype=torch.int32)
    blocks = {key: torch.from_numpy(lstm.by_block(state[key].numpy())) for key in (f"ih_{name}", f"ih_{name}.steps")}
    inputs = _Linear(blocks, f"ih_{name}", torch.from_numpy(lstm.by_block(bias.numpy())), step=STEP, zero=ZERO)
    return _Direction(inputs, lstm.pack(recurrent.numpy()), lstm.by_block(scales.numpy()), recurrent.shape[1])


_TOP = float(_LOUDEST)
_ZERO_AND_HALF, _ONE_STEP = float(ZERO + 0.5), float(ZERO - 1)


@numba.njit("void(float32[:,:,::1], float32[::1], uint8[:,::1], float32[::1])", fastmath=True, **SETTINGS)
def _round_spectra(magnitudes, scale, rounded, steps):  # type: ignore[no-untyped-def]
    """Magnitudes (frames, 2, BINS) times ``scale`` (bins,), to 8 bits of the largest in each frame."""
    bins = len(scale)
    for frame in range(len(magnitudes)):
        largest = np.float32(_SMALLEST)
        for channel in range(2):
            row = magnitudes[frame, channel]
            for f in range(bins):
                largest = max(largest, row[f] * scale[f])
        factor = np.float32(_TOP) / largest
        steps[frame] = largest / np.float32(_TOP)
        for channel in range(2):
            row = magnitudes[frame, channel]
            for f in range(bins):
                rounded[frame, channel * bins + f] = np.uint8(np.int32(row[f] * scale[f] * factor + np.float32(0.5)))


@numba.njit("void(float32[:,::1], uint8[:,::1], float32[::1])", fastmath=True, **SETTINGS)
def _round_rows(values, rounded, steps):  # type: ignore[no-untyped-def]
    """Values that are not negative, (frames, features), to 8 bits of the largest in each frame."""
    for frame in range(len(values)):
        row = values[frame]
        largest = np.float32(_SMALLEST)
        for k in range(len(row)):
            largest = max(largest, row[k])
        factor = np.float32(_TOP) / largest
        steps[frame] = largest / np.float32(_TOP)
        for k in range(len(row)):
            rounded[frame, k] = np.uint8(np.int32(row[k] * factor + np.float32(0.5)))


@numba.njit("void(float32[:,::1], float32[::1], float32[::1], uint8[:,::1])", fastmath=True, **SETTINGS)
def _activate(product, steps, bias, features):  # type: ignore[no-untyped-def]
    """``tanh(product * steps + bias)`` in 8 bits."""
    for frame in range(len(product)):
        step = steps[frame]
        for k in range(len(bias)):
            value = lstm.tanh(product[frame, k] * step + bias[k])
            features[frame, k] = np.uint8(np.int32(value * np.float32(_ONE_STEP) + np.float32(_ZERO_AND_HALF)))


@numba.njit("void(float32[:,:,::1], float32[::1], float32[:,::1], float32[:,:,::1])", fastmath=True, **SETTINGS)
def _rectify(product, steps, bias, masks):  # type: ignore[no-untyped-def]
    """``relu(product * steps + bias)``, all (frames, 2, BINS)."""
    for frame in range(len(product)):
        step = steps[frame]
        for channel in range(2):
            for f in range(product.shape[2]):
                masks[frame, channel, f] = max(np.float32(0.0), product[frame, channel, f] * step + bias[channel, f])
