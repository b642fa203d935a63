"""What can be set, with its default and its allowed range. One table for the command, the plugin and the daemon."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from demixr_daemon.errors import SettingError

TARGETS = ("vocals", "drums", "bass", "other")
FORMATS = ("flac", "wav", "mp3", "opus", "m4a")
QUANTIZATIONS = ("int8", "fp32", "fp16")
DEVICES = ("cpu", "cuda")
BITS = ("auto", "16", "24", "float")
NITERS = ("auto", *map(str, range(11)))


@dataclass(frozen=True)
class Options:
    """How to separate a track and how to write its stems. Field names are the keys of the ``demix:`` section.

    :raises SettingError: a value is out of range; the message names the key.
    """

    model: str = "auto"
    """``auto``, a name of ``demixr models list``, or a folder of weights."""
    quantization: str = "int8"
    """``int8`` is faster and smaller; ``fp32`` runs the weights as they were trained; ``fp16`` is for GPUs."""
    device: str = "cpu"
    """``cuda`` runs the networks on an NVIDIA GPU, in ``fp16`` or ``fp32``."""
    niter: int | str = "auto"
    """Iterations of the Wiener EM, 0 to 10; 0: the stems share the mixture by ratio. ``auto``: as the model does best."""
    targets: tuple[str, ...] = TARGETS
    """The stems to write."""
    instrumental: bool = False
    """Write ``instrumental`` too: the track less its vocals."""
    format: str = "flac"
    bits: str = "auto"
    """Depth of flac and wav: ``auto`` takes the track's (16 or 24); ``float`` (wav only) never clips."""
    bitrate: int = 192
    """Of mp3, opus and m4a, in kbit/s a stem, 32 to 320."""
    threads: int = 0
    """CPU threads that compute, beside those that read and write; 0: one for every core."""
    memory: int = 700
    """Megabytes of memory to stay within for a stereo track, where the model allows: more is faster, as chunks are longer."""

    def __post_init__(self) -> None:
        _one_of("quantization", self.quantization, QUANTIZATIONS)
        _one_of("device", self.device, DEVICES)
        _one_of("format", self.format, FORMATS)
        _one_of("bits", self.bits, BITS)
        _one_of("niter", str(self.niter), NITERS)
        _between("bitrate", self.bitrate, 32, 320)
        _between("threads", self.threads, 0, 1024)
        _between("memory", self.memory, 1, 10**6)
        for quantization, device, instead in (("int8", "cuda", "fp16"), ("fp16", "cpu", "int8")):
            if (self.quantization, self.device) == (quantization, device):
                raise SettingError(f"demix.quantization: {quantization} does not run on {device}; take {instead} or fp32")
        if self.bits == "float" and self.format != "wav":
            raise SettingError("demix.bits: float needs format wav")
        if not self.stems:
            raise SettingError("demix.targets: name one stem at least, for example vocals")
        if len(set(self.targets)) != len(self.targets):
            raise SettingError(f"demix.targets: a stem is named twice in {', '.join(self.targets)}")

    @property
    def stems(self) -> tuple[str, ...]:
        """The stems to write, in the usual order, ``instrumental`` last."""
        order = {target: rank for rank, target in enumerate(TARGETS)}
        targets = sorted(self.targets, key=lambda target: (order.get(target, len(order)), target))
        return tuple(dict.fromkeys((*targets, "instrumental") if self.instrumental else targets))


@dataclass(frozen=True)
class DaemonOptions:
    """What the daemon watches and how it works. Field names are the keys of the ``demix: daemon:`` section.

    :raises SettingError: a value is out of range; the message names the key.
    """

    watch_default: Path | None = None
    """``watch: default:`` what arrives in this folder is imported as albums."""
    watch_singleton: Path | None = None
    """``watch: singleton:`` what arrives in this folder is imported track by track."""
    queue_file: Path | None = None
    """A text file of URLs, one a line, by the rules of a yt-dlp batch file."""
    debounce_window: float = 10.0
    """Seconds for which a file must not change before it is taken, 0.1 to 3600."""
    polling: bool = False
    """Look for files in intervals: for network mounts, which tell of no changes."""
    stages: tuple[str, ...] = ("download", "import", "separate", "record")
    """What this machine does; ``separate`` alone on one that helps another."""
    downloads: int = 3
    """Downloads at a time, 1 to 16."""
    unload_after: float = 300.0
    """Seconds without work after which the model leaves the memory, 1 to 86400."""
    min_free_mb: int = 500
    """Free disk space below which work pauses, in MB."""
    keep_days: float = 30.0
    """How long finished jobs are listed."""
    jobs_url: str = ""
    """``postgresql://...`` to share the jobs with other machines; by default a SQLite file in ``state_dir``."""
    state_dir: Path | None = None
    """The platform's state folder by default."""
    worker: str = ""
    """A stable name of this machine among others; the host's by default."""

    def __post_init__(self) -> None:
        _within("daemon.debounce_window", self.debounce_window, 0.1, 3600)
        _within("daemon.unload_after", self.unload_after, 1, 86400)
        _within("daemon.keep_days", self.keep_days, 0, 36500)
        _between("daemon.downloads", self.downloads, 1, 16)
        _between("daemon.min_free_mb", self.min_free_mb, 0, 10**9)
        for stage in self.stages:
            _one_of("daemon.stages", stage, ("download", "import", "separate", "record"))
        if self.jobs_url and not self.jobs_url.startswith(("postgresql://", "postgres://")):
            raise SettingError(f"demix.daemon.jobs_url: {self.jobs_url.split('@')[-1]!r} does not start with postgresql://")
        if self.watch_default and self.watch_default == self.watch_singleton:
            raise SettingError("demix.daemon.watch: default and singleton are the same folder")


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SettingError(f"demix.{key}: {value!r} is not one of {', '.join(allowed)}")


def _between(key: str, value: int, lowest: int, highest: int) -> None:
    if not isinstance(value, int) or not lowest <= value <= highest:
        raise SettingError(f"demix.{key}: {value!r} is not a whole number from {lowest} to {highest}")


def _within(key: str, value: float, lowest: float, highest: float) -> None:
    if not lowest <= value <= highest:
        raise SettingError(f"demix.{key}: {value!r} is not from {lowest} to {highest}")


def daemon_defaults() -> dict[str, Any]:
    """The ``demix: daemon:`` section, as it is when the user says nothing."""
    plain = {field.name: field.default for field in fields(DaemonOptions) if not field.name.startswith("watch_")}
    return {
        **plain,
        "queue_file": "",
        "state_dir": "",
        "stages": list(DaemonOptions.stages),
        "watch": {"default": "", "singleton": ""},
        "youtube": {},
        "web": {},
    }


def section_defaults() -> dict[str, Any]:
    """The ``demix:`` section of the beets configuration, as it is when the user says nothing."""
    options = {field.name: field.default for field in fields(Options)}
    return {
        **options,
        "targets": list(TARGETS),
        "auto": False,
        "warning_threshold": 100,
        "force": False,
        "quiet": False,
        "models_dir": "",
        "mirror": "",
        "daemon": daemon_defaults(),
    }
