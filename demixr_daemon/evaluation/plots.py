"""Pictures of scores and stems, as PNG files. Owner of matplotlib."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from demixr_daemon.errors import OutputError, SettingError, shown
from demixr_daemon.evaluation.report import SongReport, systems_of
from demixr_daemon.evaluation.songs import Song
from demixr_daemon.separation.decode import Block
from demixr_daemon.settings import TARGETS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _QUIET = "#22262b", "#8a9199"
# Okabe and Ito's, which all eyes tell apart; the mixture is grey.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
_FEW = 5  # songs; a box needs more
_EXCERPT_S = 20.0
_WINDOW, _HOP = 4096, 1024
_LOWEST_HZ, _HIGHEST_HZ, _ROWS = 40.0, 16_000.0, 240
_RANGE_DB = 70.0


def check() -> None:
    """:raises SettingError: matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise SettingError("matplotlib is not installed: pip install 'beets-demix[evaluate]', or leave out --plots")


def boxes(songs: Sequence[SongReport], path: Path) -> None:
    """Each target's SDR over the songs, the systems side by side; BSS Eval's beside it where there is any.

    :raises OutputError: it cannot be written.
    """
    kinds = ["SDR"]
    if any(score.bss for song in songs for scores in song.scores.values() for score in scores.values()):
        kinds.append("BSS Eval v4 SDR")
    systems = systems_of(songs)
    figure = _figure(6.4 * len(kinds), 4.4)
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0], kinds, strict=True):
        colours = iter(_COLOURS * len(systems))
        for index, system in enumerate(systems):
            colour = _QUIET if system == "mixture" else next(colours)
            shift = (index - (len(systems) - 1) / 2) * 0.8 / len(systems)
            _system_boxes(axes, songs, system, kind, shift, colour, len(systems))
        axes.axhline(0, color=_QUIET, linewidth=0.8, zorder=0)
        axes.set_xticks(range(len(TARGETS)), TARGETS)
        axes.set_xlim(-0.6, len(TARGETS) - 0.4)
        axes.set_ylabel(f"{kind}, dB")
        axes.grid(axis="y", color=_QUIET, alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{len(songs)} song{'s' * (len(songs) != 1)}: boxes are quartiles, dots songs, lines and numbers medians",
                    fontsize=10)  # fmt: skip
    handles, labels = figure.axes[0].get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(systems)), frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    _save(figure, path)


def _system_boxes(
    axes: Axes, songs: Sequence[SongReport], system: str, kind: str, shift: float, colour: str, systems: int
) -> None:
    width = 0.64 / systems
    for place, target in enumerate(TARGETS):
        scores = [song.scores[system][target] for song in songs if target in song.scores.get(system, {})]
        values = [of.sdr_db for score in scores if (of := score if kind == "SDR" else score.bss)]
        if not values:
            continue
        at = place + shift
        if len(values) > _FEW:
            drawn = axes.boxplot([values], positions=[at], widths=width, patch_artist=True, showfliers=True,
                                 flierprops={"marker": ".", "markersize": 4, "markerfacecolor": colour,
                                             "markeredgecolor": colour},
                                 medianprops={"color": _INK, "linewidth": 1.6})  # fmt: skip
            for part in drawn["boxes"]:
                part.set(facecolor=colour, alpha=0.75, edgecolor=_INK, linewidth=0.8)
        else:
            axes.plot([at] * len(values), values, ".", color=colour, markersize=8, alpha=0.8)
            axes.plot([at - width / 2, at + width / 2], [np.median(values)] * 2, color=colour, linewidth=2)
        axes.annotate(f"{np.median(values):.1f}", (at, max(values)), (0, 5), textcoords="offset points", ha="center",
                      fontsize=7, color=_INK)  # fmt: skip
    axes.plot([], [], "s", color=colour, label=system)  # for the legend, once, whatever targets it has


def spectrograms(song: Song, estimates: Mapping[str, Mapping[str, Block]], path: Path) -> None:
    """Each target's true stem beside every system's, of some seconds from the middle of the song.

    :raises OutputError: it cannot be written.
    """
    targets = [target for target in TARGETS if any(target in stems for stems in estimates.values())]
    if not targets:
        return
    part = _loudest(song)
    top_db = float(_spectrogram(song.mixture[part], song.rate_hz).max())
    figure = _figure(1.2 + 3.4 * (1 + len(estimates)), 0.8 + 2.0 * len(targets))
    grid = figure.subplots(len(targets), 1 + len(estimates), squeeze=False, sharex=True, sharey=True)
    image: Any = None
    for line, target in zip(grid, targets, strict=True):
        columns = {"true stem": song.references.get(target), **{name: stems.get(target) for name, stems in estimates.items()}}
        for axes, (name, audio) in zip(line, columns.items(), strict=True):
            if audio is None:
                why = song.left_out.get(target, "not given") if name == "true stem" else "not given"
                axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", color=_QUIET)
                axes.set_facecolor("black")
            else:
                image = axes.imshow(
                    _spectrogram(audio[part], song.rate_hz) - top_db, origin="lower", aspect="auto", cmap="magma",
                    vmin=-_RANGE_DB, vmax=0, interpolation="bilinear",
                    extent=(part.start / song.rate_hz, part.stop / song.rate_hz, 0, _ROWS),
                )  # fmt: skip
            if target == targets[0]:
                axes.set_title(name, fontsize=10, parse_math=False)
        line[0].set_ylabel(f"$\\bf{{{target}}}$\nHz", fontsize=10)
    ticks = (50, 100, 200, 500, 1000, 2000, 5000, 10_000)
    grid[0, 0].set_yticks([_row_of(hz) for hz in ticks], [f"{hz // 1000}k" if hz >= 1000 else str(hz) for hz in ticks])
    for axes in grid[-1]:
        axes.set_xlabel("seconds")
    for axes in grid.ravel():
        axes.tick_params(labelsize=7)
    if image is not None:
        figure.colorbar(image, ax=grid, shrink=0.6, label="dB, against the loudest of the mixture", pad=0.01)
    figure.suptitle(shown(song.name), parse_math=False)
    _save(figure, path)


def _loudest(song: Song) -> slice:
    """Twenty seconds in which the quietest of the true stems sounds most, so that there is something to see of each."""
    samples = min(len(song.mixture), round(_EXCERPT_S * song.rate_hz))
    starts = range(0, len(song.mixture) - samples + 1, song.rate_hz)
    if not song.references:
        return slice(0, samples)
    sums = [np.concatenate([[0.0], np.cumsum(np.square(audio, dtype=np.float64).sum(axis=1))])
            for audio in song.references.values()]  # fmt: skip
    start = max(starts, key=lambda at: min((total[at + samples] - total[at]) / total[-1] for total in sums))
    return slice(start, start + samples)


def _row_of(hz: float) -> float:
    return _ROWS * float(np.log(hz / _LOWEST_HZ) / np.log(_HIGHEST_HZ / _LOWEST_HZ))


def _spectrogram(audio: Block, rate_hz: int) -> NDArray[np.float64]:
    """Levels in dB as (rows, frames), rows evenly spaced in pitch."""
    mono = np.pad(audio.mean(axis=1, dtype=np.float64), _WINDOW // 2, "reflect" if len(audio) > _WINDOW else "constant")
    frames = np.lib.stride_tricks.sliding_window_view(mono, _WINDOW)[::_HOP] * np.hanning(_WINDOW)
    powers = np.square(np.abs(np.fft.rfft(frames, axis=1)))
    edges = _LOWEST_HZ * (_HIGHEST_HZ / _LOWEST_HZ) ** (np.arange(_ROWS + 1) / _ROWS) * _WINDOW / rate_hz
    low = np.clip(edges[:-1].round().astype(int), 0, powers.shape[1] - 1)
    high = np.clip(edges[1:].round().astype(int), low + 1, powers.shape[1])
    sums = np.concatenate([np.zeros((len(powers), 1)), np.cumsum(powers, axis=1)], axis=1)
    levels: NDArray[np.float64] = 10 * np.log10((sums[:, high] - sums[:, low]) / (high - low) + 1e-12).T
    return levels


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=130, layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except OSError as error:
        raise OutputError(f"{shown(path)}: {error.strerror}; give another folder to --plots") from error
