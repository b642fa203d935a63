"""One Open-Unmix target, cut where its LSTM begins and ends, so that a track can flow through it.

Before the LSTM and after it, all is local to a frame. Of the LSTM, the forward direction can stop at any frame and go on later;
only the backward direction must be given some of what comes.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from demixr_daemon.separation.stft import BINS

_GATE_FRAMES = 2048
"""Frames whose gates, 16 bytes a unit, are there at a time."""


class Network(Protocol):
    """What separates one target. Frames lie first; activations are whatever the implementation likes."""

    @property
    def layers(self) -> int:
        """How many layers the LSTM has."""

    @property
    def directions(self) -> int:
        """2 where it runs backward, too."""

    def encode(self, magnitudes: Tensor) -> Tensor:
        """The mixture's magnitudes ``(frames, 2, BINS)`` to the LSTM's input ``(frames, features)``."""

    def hidden(self, frames: int) -> Tensor:
        """Room for what one LSTM layer gives, ``(frames, features)``."""

    def run(self, layer: int, reverse: bool, inputs: Tensor, state: Any, outputs: Tensor | None) -> Any:
        """Run one direction of one layer.

        :param inputs: ``(frames, features)``.
        :param state: what an earlier run returned, None at the beginning.
        :param outputs: where its part of ``(frames, features)`` is written; None where nobody will read it.
        :return: the state after the last frame; ``state`` itself is left alone.
        """

    def mask(self, features: Tensor, hidden: Tensor, masks: Tensor) -> None:
        """Write what the target takes of the mixture, ``(frames, 2, BINS)``.

        :param features: what was encoded.
        :param hidden: what the last layer gave.
        """


class FloatNetwork:
    """The network as it was trained, on the processor or on a GPU.

    The layers are those of ``openunmix.model.OpenUnmix.forward``, in its order. Activations stay on the device.

    :param net: it is moved and changed.
    :param dtype: of the matrix products and of what is between them; spectra and normalization are in float32.
    """

    def __init__(self, net: Any, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self._device, self._dtype = torch.device(device), dtype
        self._net = net.to(self._device)
        for part in (net.fc1, net.lstm, net.fc2, net.fc3):
            part.to(dtype)
        self.layers: int = net.lstm.num_layers
        self.directions = 2 if net.lstm.bidirectional else 1
        self._units: int = net.lstm.hidden_size
        suffixes = ("", "_reverse")[: self.directions]
        self._lstm = [[_one_direction(net.lstm, f"_l{layer}{suffix}") for suffix in suffixes] for layer in range(self.layers)]

    def encode(self, magnitudes: Tensor) -> Tensor:
        """See :meth:`Network.encode`."""
        net = self._net
        x = (magnitudes[..., : len(net.input_mean)].to(self._device) + net.input_mean) * net.input_scale
        features: Tensor = torch.tanh(net.bn1(net.fc1(x.flatten(1).to(self._dtype)).float()))
        return features.to(self._dtype)

    def hidden(self, frames: int) -> Tensor:
        """See :meth:`Network.hidden`."""
        return torch.empty(frames, self.directions * self._units, dtype=self._dtype, device=self._device)

    def run(self, layer: int, reverse: bool, inputs: Tensor, state: Any, outputs: Tensor | None) -> Any:
        """See :meth:`Network.run`."""
        starts = range(0, len(inputs), _GATE_FRAMES)
        for start in reversed(starts) if reverse else starts:
            part = slice(start, start + _GATE_FRAMES)
            given, state = self._lstm[layer][reverse](inputs[part].flip(0) if reverse else inputs[part], state)
            if outputs is not None:
                outputs[part, reverse * self._units : (reverse + 1) * self._units] = given.flip(0) if reverse else given
        return state

    def mask(self, features: Tensor, hidden: Tensor, masks: Tensor) -> None:
        """See :meth:`Network.mask`."""
        net = self._net
        x = torch.relu(net.bn2(net.fc2(torch.cat([features, hidden], 1)).float()))
        mask = net.bn3(net.fc3(x.to(self._dtype)).float()).view(-1, 2, BINS)
        masks.copy_(torch.relu(mask * net.output_scale + net.output_mean))


def _one_direction(lstm: nn.LSTM, suffix: str) -> nn.LSTM:
    """One layer in one direction, on the same weights."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    values = [getattr(lstm, name + suffix) for name in names]
    single = nn.LSTM(values[0].shape[1], lstm.hidden_size)
    for name, value in zip(names, values, strict=True):
        setattr(single, f"{name}_l0", value)
    single.flatten_parameters()  # as a GPU wants them
    return single
