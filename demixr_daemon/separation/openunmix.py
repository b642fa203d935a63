"""The Open-Unmix networks: load, quantize, script.

Owner of the third-party package ``openunmix``; nothing else imports it.
"""

from __future__ import annotations

import importlib.util
import pickle
import sys
import types
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from demixr_daemon.errors import ModelError, shown
from demixr_daemon.separation.stft import BINS, HOP_SAMPLES, N_FFT

__all__ = ["BINS", "HOP_SAMPLES", "N_FFT", "RATE_HZ", "load_target", "network", "quantized", "reference",
           "scripted", "standalone", "unpack_state_dict"]  # fmt: skip

RATE_HZ = 44100

# What torch's loader raises on files that are damaged, or something else altogether.
_LOAD_ERRORS = (RuntimeError, LookupError, AttributeError, TypeError, ValueError, EOFError, AssertionError,
                pickle.UnpicklingError)  # fmt: skip

# What the published umxhq files carry besides parameters: buffers of transforms that later versions build themselves.
_LEGACY_KEYS = frozenset({"sample_rate", "stft.window", "transform.0.window"})


def _import_without_torchaudio(module: str) -> Any:
    """A module of ``openunmix``, imported without torchaudio.

    openunmix 1.3.0 imports torchaudio for file I/O that is never used here, and the torchaudio wheel on PyPI links CUDA:
    beside a CPU build of torch its import dies with an ``OSError``. An empty module in its place is enough.
    """
    if "openunmix" in sys.modules or "torchaudio" in sys.modules:
        return importlib.import_module(module)
    stand_in = types.ModuleType("torchaudio")
    stand_in.__spec__ = importlib.util.spec_from_loader("torchaudio", loader=None)
    sys.modules["torchaudio"] = stand_in
    try:
        return importlib.import_module(module)
    finally:
        del sys.modules["torchaudio"]


def network(
    hidden_size: int,
    *,
    max_bin: int | None = None,
    unidirectional: bool = False,
    input_mean: NDArray[np.float32] | None = None,
    input_scale: NDArray[np.float32] | None = None,
) -> nn.Module:
    """An untrained Open-Unmix target: magnitudes ``(batch, 2, BINS, frames)`` in, the target's magnitudes out."""
    net: nn.Module = _import_without_torchaudio("openunmix.model").OpenUnmix(
        nb_bins=BINS,
        nb_channels=2,
        hidden_size=hidden_size,
        unidirectional=unidirectional,
        max_bin=max_bin,
        input_mean=input_mean,
        input_scale=input_scale,
    )
    return net


def unpack_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters as float32, from a state dict that may be in the embedded model's small form.

    There a weight matrix is stored as int8 under its own name, with its step size under ``<name>.scale``.
    """
    packed = {name for name, value in state.items() if value.dtype == torch.int8}
    scales = {f"{name}.scale" for name in packed}
    return {
        name: value.float() * state[f"{name}.scale"] if name in packed else value
        for name, value in state.items()
        if name not in _LEGACY_KEYS | scales
    }


def load_target(path: Path) -> nn.Module:
    """One network from a state dict as Open-Unmix training writes it, ready for inference in fp32.

    The sizes are read off the weights.

    :raises ModelError: the file is damaged, or is not an Open-Unmix target for 44.1 kHz stereo.
    """
    try:
        state = unpack_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        hidden_size, inputs = state["fc1.weight"].shape
        max_bin = len(state["input_mean"])
        if inputs != 2 * max_bin or len(state["output_mean"]) != BINS:
            raise ModelError(f"{shown(path)}: not a network for stereo in {BINS} bins; use a model trained with "
                             f"--nfft {N_FFT} --nhop {HOP_SAMPLES} --nb-channels 2")  # fmt: skip
        net = network(hidden_size, max_bin=max_bin, unidirectional="lstm.weight_ih_l0_reverse" not in state)
        net.load_state_dict(state)
    except OSError as error:
        raise ModelError(f"{shown(path)}: {error.strerror or error}; check the file") from error
    except _LOAD_ERRORS as error:
        raise ModelError(f"{shown(path)}: damaged, or not weights of Open-Unmix; download or copy it again") from error
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    return net.eval()


def quantized(net: nn.Module) -> nn.Module:
    """The network with dynamically quantized int8 LSTM and output layers, for TorchScript; activations stay float32.

    The first layer stays float32: its input is a spectrum, whose range is that of the loudest bin of the batch. Rounded to
    256 steps of that, quiet passages would change with what they share a batch with.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao.quantization is deprecated, and kept in torch 2.13
        quantize: Any = torch.ao.quantization.quantize_dynamic
        out: nn.Module = quantize(net, {"lstm", "fc2", "fc3"}, dtype=torch.qint8)
    return out


def scripted(module: nn.Module) -> torch.jit.ScriptModule:
    """The module compiled to TorchScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and kept in torch 2.13
        out: torch.jit.ScriptModule = torch.jit.script(module)
    return out


def standalone(nets: Mapping[str, nn.Module], niter: int = 1) -> torch.jit.ScriptModule:
    """A whole separator that needs nothing but torch to run: transforms, networks and Wiener EM in one TorchScript.

    Audio ``(batch, 2, samples)`` at 44.1 kHz in, ``(batch, targets, 2, samples)`` out, targets in the order of ``nets``.
    """
    return scripted(reference(nets, niter))


def reference(nets: Mapping[str, nn.Module], niter: int = 1) -> nn.Module:
    """Upstream's own separator around these networks: the whole track at once, for comparison and export.

    Without iterations, targets that make up the whole mixture get their ratio of it.
    """
    softmask = not niter and len(nets) > 1 and "other" in nets
    module: nn.Module = _import_without_torchaudio("openunmix.model").Separator(
        target_models=nets, niter=niter, softmask=softmask, n_fft=N_FFT, n_hop=HOP_SAMPLES, nb_channels=2, sample_rate=RATE_HZ
    )
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module.eval()
