"""Scores of many songs → medians, a table, JSON."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from demixr_daemon.errors import OutputError, shown
from demixr_daemon.evaluation.scores import BssEval, Score
from demixr_daemon.settings import TARGETS

Scores = Mapping[str, Mapping[str, Score]]
"""System → target → score."""


@dataclass(frozen=True)
class SongReport:
    """All about one song."""

    name: str
    seconds: float
    left_out: Mapping[str, str]
    """Target → why it is not scored."""
    scores: Scores
    leaks_db: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """System → target that the song does not have → level of what was made of it, against the mixture."""


def median_score(songs: Sequence[SongReport], system: str, target: str) -> tuple[int, Score] | None:
    """The median over songs of each number, and how many songs; of BSS Eval, over those that have it."""
    scores = [song.scores[system][target] for song in songs if target in song.scores.get(system, {})]
    if not scores:
        return None
    evals = [asdict(score.bss) for score in scores if score.bss]
    bss = BssEval(**{name: statistics.median(one[name] for one in evals) for name in evals[0]}) if evals else None
    return len(scores), Score(statistics.median(score.sdr_db for score in scores), bss)


def systems_of(songs: Sequence[SongReport]) -> list[str]:
    """The systems, in the order in which they were given."""
    return list(dict.fromkeys(system for song in songs for system in song.scores))


def rows(songs: Sequence[SongReport]) -> list[tuple[str, ...]]:
    """The table, header first: a row for each target and system, and each system's mean over the targets that all have."""
    found: list[tuple[str, ...]] = [("TARGET", "SONGS", "SYSTEM", "SDR", "BSS SDR", "ISR", "SIR", "SAR")]
    plain: dict[str, dict[str, float]] = {system: {} for system in systems_of(songs)}
    for target in TARGETS:
        for system, collected in plain.items():
            if median := median_score(songs, system, target):
                count, score = median
                collected[target] = score.sdr_db
                numbers = (score.sdr_db, *(asdict(score.bss).values() if score.bss else ()))
                found.append((target, str(count), system, *(f"{number:.2f}" for number in numbers), *[""] * (5 - len(numbers))))
    shared = [target for target in TARGETS if all(target in values for values in plain.values())]
    if shared:  # a mean of other targets would not compare
        name = "mean" if all(len(values) == len(shared) for values in plain.values()) else f"mean of {', '.join(shared)}"
        found += [(name, "", system, f"{statistics.fmean(values[target] for target in shared):.2f}", *[""] * 4)
                  for system, values in plain.items()]  # fmt: skip
    return found


def text(songs: Sequence[SongReport]) -> str:
    """The table as it is printed, with what was left out below it."""
    table = rows(songs)
    if not any(row[4] for row in table[1:]):  # plain SDR only
        table = [row[:4] for row in table]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    words = (0, 2)  # the other columns are numbers
    lines = ["  ".join(cell.ljust(width) if index in words else cell.rjust(width)
                       for index, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
             for row in table]  # fmt: skip
    notes = [f"{shown(song.name)}: {target} is {why}, not scored" + _leaks(song, target)
             for song in songs for target, why in song.left_out.items()]  # fmt: skip
    unit = "dB; medians over songs" + (", of BSS Eval v4 over frames of a second first" if len(table[0]) > 4 else "")
    return "\n".join([*lines, unit, *notes])


def _leaks(song: SongReport, target: str) -> str:
    levels = [f"{system} {leaks[target]:+.1f} dB" for system, leaks in song.leaks_db.items() if target in leaks]
    return f"; against the mixture, its stem has {', '.join(levels)}" if levels else ""


def as_json(songs: Sequence[SongReport], about: Mapping[str, Any]) -> str:
    """All numbers, for programs; what is no number (a perfect stem has no error) is null."""
    medians: dict[str, dict[str, Any]] = {}
    for system in systems_of(songs):
        medians[system] = {}
        for target in TARGETS:
            if median := median_score(songs, system, target):
                medians[system][target] = {"songs": median[0], **asdict(median[1])}
    content = {"program": f"beets-demix {metadata.version('beets-demix')}", **about, "medians": medians,
               "songs": [asdict(song) for song in songs]}  # fmt: skip
    return json.dumps(_finite(content), indent=2, ensure_ascii=False) + "\n"


def _finite(value: Any) -> Any:
    match value:
        case dict():
            return {key: _finite(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_finite(inner) for inner in value]
        case float():
            return round(value, 4) if math.isfinite(value) else None
    return value


def write(path: Path, songs: Sequence[SongReport], about: Mapping[str, Any]) -> None:
    """Write the JSON, at once or not at all.

    :raises OutputError: it cannot be written.
    """
    new = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = as_json(songs, about)
        new.write_bytes(content.encode("utf-8", "backslashreplace"))  # what is not UTF-8 in a name, JSON escapes the same way
        new.replace(path)
    except OSError as error:
        raise OutputError(f"{shown(path)}: {error.strerror}; give another place to --json") from error
