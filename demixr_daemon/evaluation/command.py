"""``demixr evaluate FOLDER``: score models on songs whose stems are known."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demixr_daemon.errors import AudioError, SettingError, shown
from demixr_daemon.settings import NITERS

if TYPE_CHECKING:  # all of this imports torch, or takes its time
    from demixr_daemon.evaluation.report import SongReport
    from demixr_daemon.evaluation.songs import Song
    from demixr_daemon.evaluation.systems import System
    from demixr_daemon.separation.decode import Block
    from demixr_daemon.separation.models import ModelStore

_NAME_CHARACTERS = 50  # of a picture's file: four bytes each and a number fit into any file name

Say = Callable[[str, float | None], None]
"""Told what is done right now, and how much of it."""


def add_parser(commands: Any, store: Callable[[argparse.Namespace], ModelStore]) -> None:
    """Add the sub-command.

    :param store: the models, where the arguments say.
    """
    parser = commands.add_parser("evaluate", help="score models on songs whose stems are known")
    parser.add_argument("folder", type=Path, help="a folder a song: {mixture,vocals,drums,bass,other}.{wav,flac,ogg,...}")
    parser.add_argument("--model", action="append", metavar="M",
                        help="name or folder of weights; may be given again (default: auto)")  # fmt: skip
    parser.add_argument("--quantization", default="int8", metavar="Q",
                        help="int8, fp32, or int8,fp32 side by side (default: int8)")  # fmt: skip
    parser.add_argument("--niter", choices=NITERS, default="auto", metavar="N",
                        help="iterations of the Wiener EM, 0 to 10 (default: auto, as the model does best)")  # fmt: skip
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 takes all (default: 0)")
    parser.add_argument("--seconds", type=float, default=0.0, help="score so much of each song, from its middle (default: all)")
    parser.add_argument("--plain", action="store_true", help="plain SDR alone, without BSS Eval, which takes minutes a song")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there, after each song")
    parser.add_argument("--plots", type=Path, metavar="FOLDER",
                        help="draw boxes over songs, and spectrograms of stem and reference")  # fmt: skip
    parser.set_defaults(run=lambda arguments: _run(arguments, store(arguments)))


def _run(arguments: argparse.Namespace, store: ModelStore) -> int:
    from demixr_daemon.evaluation import plots, report, scores, songs
    from demixr_daemon.evaluation.systems import Mixture, Separator

    quantizations = [name.strip() for name in arguments.quantization.split(",")]
    for name in quantizations:
        if name not in ("int8", "fp32"):
            raise SettingError(f"--quantization: {name!r} is not one of int8, fp32")
    if arguments.seconds != 0 and not 1 <= arguments.seconds < float("inf"):
        raise SettingError(f"--seconds: {arguments.seconds} is not 1 or more")
    if not arguments.folder.is_dir():
        raise SettingError(f"{shown(arguments.folder)}: no such folder")
    folders = songs.song_folders(arguments.folder)
    bss = not arguments.plain and scores.can_bss_eval()
    if not bss and not arguments.plain:
        print("plain SDR only; BSS Eval needs: pip install 'beets-demix[evaluate]'", file=sys.stderr)
    if arguments.plots:
        plots.check()
    models = [store.find(name) for name in dict.fromkeys(arguments.model or ["auto"])]
    separators = [Separator(model, quantization, arguments.niter, arguments.threads)
                  for model in models for quantization in dict.fromkeys(quantizations)]  # fmt: skip
    names = [one.name for one in separators]
    for one in separators:
        if names.count(one.name) > 1:  # folders of the same name
            one.name = f"{one.name} {one.model.sha256[:8]}"
    about = {
        "folder": str(arguments.folder),
        "seconds_of_each": arguments.seconds or None,
        "systems": [{"name": one.name, "sha256": one.model.sha256, "licence": one.model.licence} for one in separators],
    }
    done: list[SongReport] = []
    failed = 0
    try:
        with _bar() as bar:
            for number, folder in enumerate(folders, 1):
                say = partial(_say, bar, f"{number}/{len(folders)} {shown(folder.name)}")
                try:
                    song = songs.read(folder).excerpt(arguments.seconds)
                    scored, estimates = evaluated(song, [Mixture(), *separators], bss=bss, say=say)
                except AudioError as error:  # the others are scored all the same
                    failed += 1
                    bar.clear()
                    print(f"demixr: {error}", file=sys.stderr)
                    continue
                done.append(scored)
                if arguments.json:
                    report.write(arguments.json, done, about)
                if arguments.plots:
                    say("drawing", None)
                    plots.spectrograms(song, {name: stems for name, stems in estimates.items() if name != Mixture.name},
                                       arguments.plots / f"{number:02} {shown(song.name)[:_NAME_CHARACTERS]}.png")  # fmt: skip
    finally:
        if done:
            print(report.text(done))
    if arguments.plots and done:
        plots.boxes(done, arguments.plots / "boxes.png")
    return 1 if failed else 0


def evaluated(
    song: Song, systems: list[System], *, bss: bool, say: Say
) -> tuple[SongReport, Mapping[str, Mapping[str, Block]]]:
    """Separate one song with every system and score it; the scores, and what each made.

    :raises DemixrError: a system cannot separate it.
    """
    from demixr_daemon.evaluation import scores
    from demixr_daemon.evaluation.report import SongReport
    from demixr_daemon.evaluation.systems import Mixture

    found: dict[str, Mapping[str, scores.Score]] = {}
    leaks: dict[str, Mapping[str, float]] = {}
    made: dict[str, Mapping[str, Block]] = {}
    for system in systems:
        name = system.name
        made[name] = system.separate(song, partial(say, f"{name}: separating"))
        with_bss = bss and name != Mixture.name
        if with_bss:
            say(f"{name}: BSS Eval", None)
        found[name] = scores.score(song.references, made[name], song.rate_hz, bss=with_bss)
        silent = [target for target, why in song.left_out.items() if why == "silent" and target in made[name]]
        if name != Mixture.name:
            leaks[name] = {target: scores.level_db(made[name][target]) - scores.level_db(song.mixture) for target in silent}
    return SongReport(song.name, song.seconds, song.left_out, found, leaks), made


def _bar() -> Any:
    """One line that changes, on a terminal; nothing elsewhere."""
    from tqdm import tqdm

    return tqdm(total=1.0, leave=False, bar_format="{desc} |{bar}| {percentage:3.0f}%", disable=not sys.stderr.isatty())


def _say(bar: Any, place: str, what: str, share: float | None) -> None:
    bar.set_description_str(f"{place}: {what}", refresh=False)
    bar.n = share or 0.0
    bar.refresh()
