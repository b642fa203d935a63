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
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import torch

from demixr_daemon.errors import SettingError
from demixr_daemon.separation import int8, openunmix
from demixr_daemon.separation.chunks import Grid
from demixr_daemon.separation.models import Model
from demixr_daemon.separation.networks import FloatNetwork, Network
from demixr_daemon.separation.separator import Backend, OpenUnmixBackend
from demixr_daemon.settings import Options

_LONGEST_CHUNK = 16384  # frames; longer ones are hardly faster, and progress and cancelling wait for them
_WINDOW_MB = 120  # what the Wiener filter and the files on their way take
_KEPT_S = 60 * 86400  # what nobody has loaded for so long leaves the cache when the next model enters it
_OPTIONS = ("quantization", "device", "threads", "memory")  # those that a loaded model depends on


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to separate."""

    model: Model
    options: Options
    """What it was loaded for."""
    backend: Backend

    def fits(self, options: Options) -> bool:
        """Whether loading it for ``options`` would give the same."""
        same = all(getattr(self.options, key) == getattr(options, key) for key in _OPTIONS)
        return same and self.model.iterations(self.options.niter) == self.model.iterations(options.niter)


def load(
    model: Model, options: Options | None = None, *, grid: Grid | None = None, cache: Path | None = None
) -> LoadedModel:
    """Load a model for separation.

    :param grid: how tracks are cut; by default as the options' memory allows.
    :param cache: folder of quantized weights; the platform's cache folder by default.
    :raises ModelError: the weights are damaged or of another shape.
    :raises SettingError: there is no such device.
    """
    options = options or Options()
    _keep_memory_flat()
    model.check()
    networks: Mapping[str, Network]
    if options.quantization == "int8":
        states = _cached_int8(model, cache or platformdirs.user_cache_path("demixr") / "int8")
        networks = {target: int8.Int8Network(state) for target, state in states.items()}
    else:
        if options.device == "cuda":
            _try_cuda()
        dtype = torch.float16 if options.quantization == "fp16" else torch.float32
        networks = {target: FloatNetwork(net, options.device, dtype) for target, net in targets(model).items()}
    grid = grid or _grid(list(networks.values()), options)
    threads = options.threads or len(os.sched_getaffinity(0))
    niter = model.iterations(options.niter)
    return LoadedModel(model, options, OpenUnmixBackend(networks, niter=niter, grid=grid, threads=threads))


def _try_cuda() -> None:
    if not torch.cuda.is_available():
        raise SettingError(f"demix.device: torch {torch.__version__} finds no CUDA device; take device: cpu, or install a CUDA "
                           "build of torch and NVIDIA's driver")  # fmt: skip
    try:
        torch.zeros(8, device="cuda").sum().item()
    except RuntimeError as error:  # too old for this torch, or taken by another process
        raise SettingError(f"demix.device: the GPU does not work: {str(error).splitlines()[0]}; take device: cpu") from error


def _grid(networks: list[Network], options: Options) -> Grid:
    """The longest chunks that the memory allows, within reason: the longer they are, the less is heard ahead twice.

    The figures are of ``benchmarks.memory``, for stereo tracks, with headroom for hours.
    """
    frame_mb = 3.1 * sum(network.hidden(1).nbytes for network in networks) / 1e6
    free_mb = 0.88 * options.memory - _resident_mb() - _WINDOW_MB
    frames = _LONGEST_CHUNK if options.device == "cuda" else int(free_mb / frame_mb) - Grid.ahead_frames
    frames = frames // 2048 * 2048  # a page more or less must not move the chunks
    return Grid(chunk_frames=min(max(frames, Grid.chunk_frames), _LONGEST_CHUNK))


def _resident_mb() -> float:
    """What the process takes now; 0 where there is no telling."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize() / 1e6
    except OSError:
        return 0.0


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
            _mark_used(path)
            return cached
    states = {target: int8.quantize(net) for target, net in targets(model).items()}
    new = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):  # no cache, no harm: it is built again next time
        cache.mkdir(parents=True, exist_ok=True)
        _forget_unused(cache)
        content = io.BytesIO()  # torch's own writing to a file aborts the process when the disk is full
        torch.save(states, content)
        new.write_bytes(content.getbuffer())
        new.replace(path)
        path.with_suffix(".sha256").write_text(hashlib.sha256(content.getbuffer()).hexdigest(), "ascii")
    with contextlib.suppress(OSError):
        new.unlink()  # a full disk cut it short
    return states


def _mark_used(path: Path) -> None:
    """Many file systems do not write down by themselves when a file was read."""
    with contextlib.suppress(OSError):
        for file in (path, path.with_suffix(".sha256")):
            os.utime(file, ns=(time.time_ns(), file.stat().st_mtime_ns))


def _forget_unused(cache: Path) -> None:
    """Delete what is left of models that are gone or no longer used, and of other versions of this program and of torch."""
    for file in cache.glob("*-torch*"):  # hidden ones, too: what a kill left
        with contextlib.suppress(OSError):
            if file.stat().st_atime < time.time() - _KEPT_S:
                file.unlink()


def _intact(path: Path) -> bool:
    """Torch looks at no checksums: a damaged file can load, and separate otherwise."""
    try:
        with open(path, "rb") as file:
            return path.with_suffix(".sha256").read_bytes() == hashlib.file_digest(file, "sha256").hexdigest().encode()
    except OSError:
        return False
