"""Weights on this machine: the catalogue, the embedded model, downloads, and folders of one's own.

A model is a folder with one state dict per target, named ``<target>.pth`` or ``<target>-<hash>.pth``, as Open-Unmix training
writes it. ``SHA256SUMS`` beside them holds what each file must hash to.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import platformdirs

from demixr_daemon.errors import LicenceError, ModelError, output_error, shown
from demixr_daemon.separation.transfer import Report, fetch, sha256_of
from demixr_daemon.settings import TARGETS

EMBEDDED = "demixr-small"
AUTO = "auto"
SUMS = "SHA256SUMS"

# ``auto`` takes the first that is present. umxl is not among them: its licence allows non-commercial use only.
_PREFERENCE = ("umxhq", EMBEDDED)


@dataclass(frozen=True)
class Model:
    """Weights that are present."""

    name: str
    folder: Path
    licence: str
    weights: Mapping[str, Path]
    """Target → state dict, in the order vocals, drums, bass, other, and then any more."""

    @property
    def targets(self) -> tuple[str, ...]:
        """The stems it gives; without a network for ``other``, that is what the rest leaves of the mixture."""
        return (*self.weights, *(() if "other" in self.weights else ("other",)))

    def iterations(self, niter: int | str) -> int:
        """Of the Wiener EM, for one of :data:`~demixr_daemon.settings.NITERS`."""
        return self._niter if niter == AUTO else int(niter)

    @cached_property
    def _niter(self) -> int:
        """What the model does best with by its ``separator.json``, or 1, as upstream has it."""
        try:
            said = json.loads((self.folder / "separator.json").read_text("utf-8"))["niter"]
        except (OSError, ValueError, LookupError, TypeError):
            return 1
        return int(said) if isinstance(said, int) and 0 <= said <= 10 else 1

    @cached_property
    def hashes(self) -> Mapping[str, str]:
        """Target → SHA-256 of its file as it is now."""
        return {target: sha256_of(path) for target, path in self.weights.items()}

    @cached_property
    def sha256(self) -> str:
        """One hash for all of them: of the lines ``<target> <hash>``."""
        return hashlib.sha256("".join(f"{t} {h}\n" for t, h in sorted(self.hashes.items())).encode()).hexdigest()

    def check(self) -> None:
        """Compare the files with ``SHA256SUMS``, if the folder has one.

        :raises ModelError: one is damaged.
        """
        expected = _read_sums(self.folder)
        for target, path in self.weights.items():
            if expected.get(path.name, self.hashes[target]) != self.hashes[target]:
                raise ModelError(f"{shown(path)}: damaged weights of {self.name}: the SHA-256 is not that of {SUMS}; "
                                 f"run `demixr models remove {self.name}` and download or copy it again")  # fmt: skip


@dataclass(frozen=True)
class Offer:
    """An entry of the catalogue."""

    name: str
    summary: str
    licence: str
    licence_url: str
    needs_consent: bool
    url: str = ""
    bytes: int = 0
    """Of one file, for the disk space check; umxl's are near this."""
    files: Mapping[str, Mapping[str, str]] | None = None
    """Target → name and sha256. A shorter sha256 is its first digits: nobody has published the rest."""


class ModelStore:
    """What can be loaded by name.

    :param folder: where downloads live; the platform's data folder by default.
    :param mirror: a base URL that serves the catalogue's files by their names, instead of where they were published.
    """

    def __init__(self, folder: Path | None = None, mirror: str = "") -> None:
        self.folder = folder or platformdirs.user_data_path("demixr") / "models"
        self.mirror = mirror
        self.embedded = Path(str(resources.files("demixr_models")))
        entries: dict[str, dict[str, Any]] = json.loads((self.embedded / "catalogue.json").read_text("utf-8"))
        self.offers = {name: Offer(name=name, **entry) for name, entry in entries.items()}

    def present(self) -> list[Model]:
        """Every model on this machine, the catalogue's first."""
        names = [*self.offers, *sorted(path.name for path in _folders(self.folder) if path.name not in self.offers)]
        return [model for name in names if (model := self._load(name)) is not None]

    def find(self, name: str) -> Model:
        """The model of this name, or in the folder of this path, or for ``auto`` the best one present.

        :raises ModelError: unknown, not downloaded, or incomplete.
        """
        if name == AUTO:
            name = next((choice for choice in _PREFERENCE if self._load(choice) is not None), EMBEDDED)
        if (model := self._load(name)) is not None:
            return model
        if name == EMBEDDED:
            raise ModelError(f"the embedded model {EMBEDDED} is missing from this installation; install beets-demix again")
        if name in self.offers:
            raise ModelError(f"model {name} is not on this machine; run `demixr models download {name}`")
        if os.sep in name or name.startswith("~"):
            raise ModelError(f"{shown(name)}: no model there: the folder must hold <target>.pth files")
        known = ", ".join(dict.fromkeys([AUTO, *self.offers, *(model.name for model in self.present())]))
        raise ModelError(f"unknown model {name!r}; known are {known}, or the path of a folder of weights")

    def _load(self, name: str) -> Model | None:
        if os.sep in name or name.startswith("~"):
            folder = Path(name)
            with contextlib.suppress(RuntimeError):  # ~ of no user
                folder = folder.expanduser()
        else:
            folder = (self.embedded if name == EMBEDDED else self.folder) / name
        weights = _weights(folder)
        offer = self.offers.get(name)
        if offer and offer.files and set(weights) != set(offer.files):
            return None
        if not weights:
            return None
        licence = offer.licence if offer else "your own weights"
        return Model(folder.name if offer is None else name, folder, licence, weights)

    def download(self, name: str, *, accept_licence: bool = False, report: Report | None = None) -> Model:
        """Fetch a model of the catalogue; what is there already and whole is kept, what was begun is resumed.

        :raises LicenceError: the licence wants consent and ``accept_licence`` is not set.
        :raises ModelError: unknown, no network, refused, or not what the catalogue says.
        """
        offer = self.offers.get(name)
        if offer is None or not offer.files:
            there = [other for other, entry in self.offers.items() if entry.files]
            raise ModelError(f"model {name!r} is not one to download; there are {', '.join(there)}")
        if offer.needs_consent and not accept_licence:
            raise LicenceError(f"{name} comes under {offer.licence} ({offer.licence_url}); "
                               f"accept it with `demixr models download {name} --accept-licence`")  # fmt: skip
        folder = self.folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            missing = [entry for entry in offer.files.values() if not (folder / entry["name"]).exists()]
            if shutil.disk_usage(folder).free < len(missing) * offer.bytes:
                raise ModelError(f"not enough free disk in {shown(folder)} for {len(missing) * offer.bytes >> 20} MiB")
            # What was seen first is what a file must be from then on, also where only a prefix is known.
            sums = _read_sums(folder)
            for entry in offer.files.values():
                pinned = sums.get(entry["name"], "")
                expected = pinned if pinned.startswith(entry["sha256"]) else entry["sha256"]
                url = f"{(self.mirror or offer.url).rstrip('/')}/{entry['name']}"
                sums[entry["name"]] = fetch(url, folder / entry["name"], expected, report)
                _write_sums(folder, sums)
        except OSError as error:
            raise ModelError(str(output_error(error, folder)).replace("the stems", "the weights")) from error
        return self.find(name)

    def remove(self, name: str) -> bool:
        """Delete a downloaded model; whether there was one.

        :raises ModelError: it is the embedded one, or cannot be deleted.
        """
        if name == EMBEDDED:
            raise ModelError(f"{EMBEDDED} is part of the program and stays")
        if name not in self.offers or not (self.folder / name).is_dir():
            return False
        try:
            shutil.rmtree(self.folder / name)
        except OSError as error:
            raise ModelError(f"cannot remove {shown(self.folder / name)}: {error.strerror or error}") from error
        return True


def _weights(folder: Path) -> dict[str, Path]:
    """Target → file. Where a target has several files, the one named plainly, as upstream's loader does."""
    found: dict[str, Path] = {}
    if folder.is_dir():
        for path in sorted(folder.glob("*.pth"), key=lambda path: len(path.name), reverse=True):
            found[re.sub(r"[-_][0-9a-f]{8}$", "", path.stem)] = path
    order = {target: rank for rank, target in enumerate(TARGETS)}
    return dict(sorted(found.items(), key=lambda item: (order.get(item[0], len(order)), item[0])))


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def _read_sums(folder: Path) -> dict[str, str]:
    """File name → SHA-256, in the format of ``sha256sum``."""
    try:
        lines = (folder / SUMS).read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ModelError(f"{shown(folder / SUMS)}: {error.strerror}; check the file") from error
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines if "  " in line)}


def _write_sums(folder: Path, sums: Mapping[str, str]) -> None:
    new = folder / f".{SUMS}.new"
    new.write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())), "utf-8")
    new.replace(folder / SUMS)
