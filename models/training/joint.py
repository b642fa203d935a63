"""The four Open-Unmix networks of a model, trained as one: first with a common trunk, then each with its own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from demixr_daemon.separation.openunmix import load_target, network
from demixr_daemon.separation.stft import N_FFT
from models.training.songs import RATE_HZ, TARGETS

BANDWIDTH_HZ = 16000
MAX_BIN = BANDWIDTH_HZ * N_FFT // RATE_HZ + 1  # bins the networks look at; they estimate all
CARRIED_SHARE = 0.7  # of the mixtures that begin in a state left by others
TRUNK = ("fc1", "bn1", "lstm", "fc2", "bn2", "input_mean", "input_scale")


class JointNetworks(nn.Module):
    """One Open-Unmix network per target, whose layers up to ``bn2`` are the same objects while ``tied``.

    Encoder and LSTM learn much the same for every target. Training them together gives them four times the lessons
    for the time; :meth:`untie` then hands every target its own copy to specialise.
    """

    def __init__(self, hidden_size: int, input_mean: NDArray[np.float32], input_scale: NDArray[np.float32]) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.tied = False
        self._states: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self.nets = nn.ModuleDict()
        for target in TARGETS:
            net = network(hidden_size, max_bin=MAX_BIN, input_mean=input_mean, input_scale=input_scale)
            self.nets[target] = net
            # Upstream starts from masks of 1 with a spread of 1; a calm start near a fair share learns sooner.
            output: Any = net
            nn.init.constant_(output.bn3.weight, 0.2)
            nn.init.constant_(output.output_mean, 0.35)
        self.tie()

    def tie(self) -> None:
        """Let all targets use the trunk of the first one."""
        first = self.nets[TARGETS[0]]
        for target in TARGETS[1:]:
            for name in TRUNK:
                setattr(self.nets[target], name, getattr(first, name))
        self.tied = True

    def untie(self) -> None:
        """Give each target its own copy of the trunk."""
        first = self.nets[TARGETS[0]]
        for target in TARGETS[1:]:
            for name in TRUNK:
                setattr(self.nets[target], name, copy.deepcopy(getattr(first, name)))
        self.tied = False

    def forward(
        self, mixture: torch.Tensor, judged: slice = slice(None), targets: Sequence[str] = TARGETS
    ) -> dict[str, torch.Tensor]:
        """Magnitudes ``(batch, 2, bins, frames)`` to one such tensor for each of ``targets``, of the ``judged`` frames."""
        by_frame = mixture.permute(3, 0, 1, 2)
        trunks = {target: TARGETS[0] if self.tied else target for target in targets}
        features = {target: self._trunk(target, by_frame) for target in set(trunks.values())}
        return {target: _head(self.nets[target], features[trunks[target]][judged], by_frame[judged]) for target in targets}

    def _trunk(self, target: str, by_frame: torch.Tensor) -> torch.Tensor:
        """Magnitudes ``(frames, batch, 2, bins)`` to features ``(frames, batch, hidden)``, as in ``OpenUnmix.forward``.

        While training, most mixtures begin in the state that other music, often minutes of it, has left behind. From
        silence alone a network never learns to come back from such states, in which whole songs put it.
        """
        net: Any = self.nets[target]
        frames, batch, channels, _ = by_frame.shape
        x = (by_frame[..., : net.nb_bins] + net.input_mean) * net.input_scale
        x = net.bn1(net.fc1(x.reshape(-1, channels * net.nb_bins)))
        x = torch.tanh(x.reshape(frames, batch, net.hidden_size))
        given, left = net.lstm(x, self._begin(target, batch) if self.training else None)
        if self.training:
            self._states[target] = (left[0].detach(), left[1].detach())
        x = torch.cat([x, given], -1)
        x = net.bn2(net.fc2(x.reshape(-1, x.shape[-1])))
        return torch.relu(x).reshape(frames, batch, net.hidden_size)

    def _begin(self, target: str, batch: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """States in which to begin: silence, or what the last step left in another mixture."""
        states = self._states.get(target)
        if states is None or states[0].shape[1] != batch:
            return None
        order = torch.randperm(batch, device=states[0].device)
        kept = (torch.rand(batch, 1, device=states[0].device) < CARRIED_SHARE).to(states[0].dtype)
        hidden, cell = (state[:, order] * kept for state in states)
        return hidden, cell


def of_model(folder: Path) -> JointNetworks:
    """The networks of a model folder, to train on from its weights."""
    targets: dict[str, Any] = {target: load_target(folder / f"{target}.pth") for target in TARGETS}
    first = targets[TARGETS[0]]
    nets = JointNetworks(first.hidden_size, first.input_mean.numpy(), first.input_scale.numpy())
    nets.untie()
    for target, net in targets.items():
        nets.nets[target].load_state_dict(net.state_dict())
    return nets


def _head(net: Any, hidden: torch.Tensor, by_frame: torch.Tensor) -> torch.Tensor:
    """Features to the target's magnitudes ``(batch, 2, bins, frames)``: the end of ``OpenUnmix.forward``."""
    mask = net.bn3(net.fc3(hidden.reshape(-1, net.hidden_size))).reshape(by_frame.shape)
    mask = torch.relu(mask * net.output_scale + net.output_mean)
    return (mask * by_frame).permute(1, 2, 3, 0)


def input_statistics(magnitudes: list[torch.Tensor]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and scale per bin ``(bins,)`` of mixtures ``(batch, 2, bins, frames)``; the scale has upstream's floor."""
    frames = torch.cat([batch.mean(1).permute(0, 2, 1).reshape(-1, batch.shape[2]) for batch in magnitudes])
    mean, scale = frames.mean(0).numpy(), frames.std(0).numpy()
    return mean, np.maximum(scale, 1e-4 * scale.max())
