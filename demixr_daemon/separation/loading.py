"""From weights on disk to a running backend: the cache of quantized TorchScript.

Quantizing and compiling costs seconds and needs the fp32 weights in memory; it is done once. The cached file's name holds
what it was made of, so that other weights or another torch never meet it.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import platformdirs
import torch

from demixr_daemon.separation import openunmix
from demixr_daemon.separation.models import Model
from demixr_daemon.separation.separator import Backend, Grid, OpenUnmixBackend


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to separate."""

    model: Model
    quantization: str
    niter: int
    backend: Backend


def load(
    model: Model, *, quantization: str = "int8", niter: int = 1, threads: int = 0, grid: Grid | None = None,
    cache: Path | None = None,
) -> LoadedModel:  # fmt: skip
    """Load a model for separation.

    :param quantization: ``int8`` or ``fp32``.
    :param threads: CPU threads, for the whole process; 0 leaves them as they are.
    :param cache: folder of cached TorchScript; the platform's cache folder by default.
    :raises ModelError: the weights are damaged or of another shape.
    """
    if threads:
        torch.set_num_threads(threads)
        most: Any = numba.config
        numba.set_num_threads(min(threads, most.NUMBA_NUM_THREADS))
    _keep_freed_memory()
    model.check()
    networks: torch.nn.Module
    if quantization == "int8":
        networks = _cached_int8(model, cache or platformdirs.user_cache_path("demixr") / "torchscript")
    else:
        networks = openunmix.Networks(targets(model))
    backend = OpenUnmixBackend(networks, tuple(model.weights), niter=niter, grid=grid)
    return LoadedModel(model, quantization, niter, backend)


def _keep_freed_memory() -> None:
    """Let glibc reuse large buffers instead of handing each back to the system.

    Every chunk frees and takes the same tens of megabytes; mapping them anew costs a quarter of the time in page faults, and
    leaves the heap in pieces that let the peak creep up with the length of the track.
    """
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of malloc.h
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, 1 << 30)
        mallopt(trim_threshold, 1 << 30)


def targets(model: Model, *, int8: bool = False) -> dict[str, torch.nn.Module]:
    """The networks of a model, by target."""
    nets = {target: openunmix.load_target(path) for target, path in model.weights.items()}
    return {target: openunmix.quantized(net) for target, net in nets.items()} if int8 else nets


def _cached_int8(model: Model, cache: Path) -> torch.nn.Module:
    code = hashlib.sha256(Path(openunmix.__file__).read_bytes()).hexdigest()[:8]  # compiled into the file, too
    path = cache / f"{model.sha256[:32]}-int8-{code}-torch{torch.__version__}.pt"
    if _intact(path):
        with contextlib.suppress(RuntimeError):
            load_script: Any = torch.jit.load
            cached: torch.nn.Module = load_script(str(path))
            return cached
    script = openunmix.scripted(openunmix.Networks(targets(model, int8=True)))
    new = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):  # no cache, no harm: it is built again next time
        cache.mkdir(parents=True, exist_ok=True)
        content = script.save_to_buffer()  # torch's own writing to a file aborts the process when the disk is full
        new.write_bytes(content)
        new.replace(path)
        path.with_suffix(".sha256").write_text(hashlib.sha256(content).hexdigest(), "ascii")
    with contextlib.suppress(OSError):
        new.unlink()  # a full disk cut it short
    return script


def _intact(path: Path) -> bool:
    """Torch looks at no checksums: a damaged file can load, and separate otherwise."""
    try:
        with open(path, "rb") as file:
            return path.with_suffix(".sha256").read_bytes() == hashlib.file_digest(file, "sha256").hexdigest().encode()
    except OSError:
        return False
