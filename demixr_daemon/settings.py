"""What can be set, with its default and its allowed range. One table for the command, the plugin and the daemon."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from demixr_daemon.errors import SettingError

TARGETS = ("vocals", "drums", "bass", "other")
FORMATS = ("flac", "wav", "mp3", "opus", "m4a")
QUANTIZATIONS = ("int8", "fp32")
BITS = ("auto", "16", "24", "float")


@dataclass(frozen=True)
class Options:
    """How to separate a track and how to write its stems. Field names are the keys of the ``demix:`` section.

    :raises SettingError: a value is out of range; the message names the key.
    """

    model: str = "auto"
    """``auto``, a name of ``demixr models list``, or a folder of weights."""
    quantization: str = "int8"
    """``int8`` is faster and smaller; ``fp32`` runs the weights as they were trained."""
    niter: int = 1
    """Iterations of the Wiener EM, 0 to 10."""
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
    """CPU threads; 0 takes what the machine has."""

    def __post_init__(self) -> None:
        _one_of("quantization", self.quantization, QUANTIZATIONS)
        _one_of("format", self.format, FORMATS)
        _one_of("bits", self.bits, BITS)
        _between("niter", self.niter, 0, 10)
        _between("bitrate", self.bitrate, 32, 320)
        _between("threads", self.threads, 0, 1024)
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
        return (*targets, "instrumental") if self.instrumental else tuple(targets)


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SettingError(f"demix.{key}: {value!r} is not one of {', '.join(allowed)}")


def _between(key: str, value: int, lowest: int, highest: int) -> None:
    if not isinstance(value, int) or not lowest <= value <= highest:
        raise SettingError(f"demix.{key}: {value!r} is not a whole number from {lowest} to {highest}")


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
    }
