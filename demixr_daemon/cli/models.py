"""``demixr models``: list, download, verify, export and remove models."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demixr_daemon import configuration
from demixr_daemon.errors import LicenceError, ModelError, output_error, shown
from demixr_daemon.settings import NITERS

if TYPE_CHECKING:  # they take a fifth of a second, which `demixr status` should not
    from demixr_daemon.separation.models import ModelStore, Offer
    from demixr_daemon.separation.transfer import Report


def add_to(commands: Any) -> None:
    """Add ``demixr models`` to the command's parser."""
    models = commands.add_parser("models", help="list, download, verify, export and remove models")
    actions = models.add_subparsers(required=True, metavar="ACTION")

    listing = actions.add_parser("list", help="what is on this machine and what can be downloaded")
    listing.set_defaults(run=_list)
    download = actions.add_parser("download", help="fetch a model; resumes what was begun")
    download.add_argument("model")
    download.add_argument("--accept-licence", action="store_true", help="accept its licence without being asked")
    download.set_defaults(run=_download)
    verify = actions.add_parser("verify", help="compare weights with their SHA-256 and load them")
    verify.add_argument("model", nargs="*", help="all that are present, by default")
    verify.set_defaults(run=_verify)
    export = actions.add_parser("export", help="write a stand-alone TorchScript separator, to be loaded with torch alone")
    export.add_argument("model")
    export.add_argument("file", type=Path)
    export.add_argument("--quantization", choices=("int8", "fp32"), default="int8")
    export.add_argument("--niter", choices=NITERS, default="auto", metavar="N",
                        help="iterations of the Wiener EM, 0 to 10 (default: auto, as the model does best)")  # fmt: skip
    export.set_defaults(run=_export)
    remove = actions.add_parser("remove", help="delete a downloaded model")
    remove.add_argument("model")
    remove.set_defaults(run=_remove)


def store_of(arguments: argparse.Namespace) -> ModelStore:
    """The models, where the ``demix:`` section of the beets configuration says."""
    return configuration.read(arguments.config).store()


def _list(arguments: argparse.Namespace) -> int:
    store = store_of(arguments)
    present = {model.name: model for model in store.present()}
    rows = [("NAME", "SIZE", "LICENCE", "", "WHAT IT IS")]
    for name in dict.fromkeys([*store.offers, *present]):
        offer = store.offers.get(name)
        model = present.get(name)
        if model:
            size = sum(path.stat().st_size for path in model.weights.values() if path.exists())
        else:
            size = 4 * (offer.bytes if offer else 0)
        rows.append((shown(name), f"{size / 1e6:.0f} MB", offer.licence if offer else "own", "here" if model else "download",
                     offer.summary if offer else ", ".join(model.weights if model else ())))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"auto is {store.find('auto').name}; downloads lie in {shown(store.folder)}")
    return 0


def _download(arguments: argparse.Namespace) -> int:
    store = store_of(arguments)
    offer = store.offers.get(arguments.model)
    accepted = arguments.accept_licence
    if offer and offer.files:
        print(f"{offer.name}: {offer.summary}. Licence: {offer.licence}, {offer.licence_url}")
        if offer.needs_consent and not accepted:
            accepted = _consent(offer)
    with _bars() as report:
        model = store.download(arguments.model, accept_licence=accepted, report=report)
    print(f"{model.name} is complete in {shown(model.folder)}")
    return 0


def _consent(offer: Offer) -> bool:
    if not (sys.stdin and sys.stdin.isatty()):
        return False
    try:
        answer = input(f"Do you accept {offer.licence} for {offer.name}? [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise LicenceError(f"{offer.name} was not downloaded: its licence was not accepted")
    return True


@contextlib.contextmanager
def _bars() -> Iterator[Report]:
    """A progress bar for each file; on no terminal, nothing."""
    from tqdm import tqdm

    with contextlib.ExitStack() as bars:
        opened: dict[str, Any] = {}

        def report(name: str, have: int, total: int) -> None:
            if name not in opened:
                opened[name] = bars.enter_context(
                    tqdm(total=total or None, desc=name, unit="B", unit_scale=True, disable=not sys.stderr.isatty())
                )
            opened[name].n = have
            opened[name].refresh()

        yield report


def _verify(arguments: argparse.Namespace) -> int:
    from demixr_daemon.separation import loading

    store = store_of(arguments)
    failed = 0
    for name in arguments.model or [model.name for model in store.present()]:
        try:
            model = store.find(name)
            model.check()
            loading.targets(model)
            print(f"{shown(model.name)}: good ({', '.join(model.weights)}; sha256 {model.sha256[:16]})")
        except ModelError as error:
            failed += 1
            print(f"demixr: {error}", file=sys.stderr)
    return 1 if failed else 0


def _export(arguments: argparse.Namespace) -> int:
    from demixr_daemon.separation import loading, openunmix

    model = store_of(arguments).find(arguments.model)
    model.check()
    nets = loading.targets(model)
    if arguments.quantization == "int8":
        nets = {target: openunmix.quantized(net) for target, net in nets.items()}
    separator = openunmix.standalone(nets, model.iterations(arguments.niter) if len(nets) > 1 else 0)
    new = arguments.file.parent / f".{arguments.file.name}.{os.getpid()}.new"
    try:
        with open(new, "wb") as file:
            file.write(separator.save_to_buffer())  # torch's own writing aborts the process when the disk is full
        new.replace(arguments.file)
    except OSError as error:
        raise ModelError(str(output_error(error, arguments.file.parent)).replace("the stems", "the export")) from error
    finally:
        with contextlib.suppress(OSError):
            new.unlink()
    print(f"{shown(arguments.file)}: {', '.join(nets)}; audio (batch, 2, samples) at 44.1 kHz in, "
          f"(batch, {len(nets)}, 2, samples) out. Weights: {model.licence}")  # fmt: skip
    return 0


def _remove(arguments: argparse.Namespace) -> int:
    if not store_of(arguments).remove(arguments.model):
        raise ModelError(f"model {arguments.model} is not among the downloaded ones; see `demixr models list`")
    print(f"{arguments.model} removed")
    return 0
