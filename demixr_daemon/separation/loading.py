"""From weights on disk to a running backend: the cache of quantized weights.

Quantizing needs the fp32 weights, four times as large, in memory; it is done once. The cached file's name holds what it was
made of, so that other weights or another torch never meet it.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import torch

from demixr_daemon.separation import int8, openunmix
from demixr_daemon.separation.chunks import Grid
from demixr_daemon.separation.models import Model
from demixr_daemon.separation.networks import FloatNetwork, Network
from demixr_daemon.separation.separator import Backend, OpenUnmixBackend


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to separate."""

    model: Model
    quantization: str
    niter: int
    threads: int
    """As asked for: 0 takes the processors that there are."""
    backend: Backend


def load(
    model: Model, *, quantization: str = "int8", niter: int = 1, threads: int = 0, grid: Grid | None = None,
    cache: Path | None = None,
) -> LoadedModel:  # fmt: skip
    """Load a model for separation.

    :param quantization: ``int8`` or ``fp32``.
    :param threads: how many threads share the work; 0 takes the processors that there are.
    :param cache: folder of quantized weights; the platform's cache folder by default.
    :raises ModelError: the weights are damaged or of another shape.
    """
    _keep_memory_flat()
    model.check()
    networks: Mapping[str, Network]
    if quantization == "int8":
        states = _cached_int8(model, cache or platformdirs.user_cache_path("demixr") / "int8")
        networks = {target: int8.Int8Network(state) for target, state in states.items()}
    else:
        networks = {target: FloatNetwork(net) for target, net in targets(model).items()}
    backend = OpenUnmixBackend(networks, niter=niter, grid=grid, threads=threads or len(os.sched_getaffinity(0)))
    return LoadedModel(model, quantization, niter, threads, backend)


def _keep_memory_flat() -> None:
    """Keep glibc's heap from creeping up with the length of a track.

    Every window frees and takes the same tens of megabytes. In the heap they leave pieces behind, the more the longer it goes
    on; so the large ones are mapped, and handed back, one by one, which costs a few percent in page faults. The rest stays
    with the process, in one heap: one for each thread would keep what the others could use.
    """
    mmap_threshold, trim_threshold, arena_max = -3, -1, -8  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_ARENA_MAX of malloc.h
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(arena_max, 1)
        mallopt(mmap_threshold, 1 << 20)
        mallopt(trim_threshold, 64 << 20)


def targets(model: Model) -> dict[str, torch.nn.Module]:
    """The networks of a model, by target, in fp32."""
    return {target: openunmix.load_target(path) for target, path in model.weights.items()}


def _cached_int8(model: Model, cache: Path) -> dict[str, int8.State]:
    code = hashlib.sha256(Path(int8.__file__).read_bytes()).hexdigest()[:8]  # another rounding, another file
    path = cache / f"{model.sha256[:32]}-{code}-torch{torch.__version__}.pt"
    if _intact(path):
        with contextlib.suppress(RuntimeError, OSError, EOFError):
            cached: dict[str, int8.State] = torch.load(path, weights_only=True)
            return cached
    states = {target: int8.quantize(net) for target, net in targets(model).items()}
    new = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):  # no cache, no harm: it is built again next time
        cache.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()  # torch's own writing to a file aborts the process when the disk is full
        torch.save(states, content)
        new.write_bytes(content.getbuffer())
        new.replace(path)
        path.with_suffix(".sha256").write_text(hashlib.sha256(content.getbuffer()).hexdigest(), "ascii")
    with contextlib.suppress(OSError):
        new.unlink()  # a full disk cut it short
    return states


def _intact(path: Path) -> bool:
    """Torch looks at no checksums: a damaged file can load, and separate otherwise."""
    try:
        with open(path, "rb") as file:
            return path.with_suffix(".sha256").read_bytes() == hashlib.file_digest(file, "sha256").hexdigest().encode()
    except OSError:
        return False
