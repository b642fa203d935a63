"""Draw the learning curves of training logs, one after the other as they were run, into a PNG file.

LOG is what `train` printed: each target's loss, a running average over 50 steps, every --log-every steps.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from models.training.songs import TARGETS

_COLOURS = dict(zip(TARGETS, ("#0072b2", "#e69f00", "#009e73", "#cc79a7"), strict=True))  # Okabe and Ito's
_STEP = re.compile(r"step (\d+)  ([\d.]+) min  rate \S+  (.*)")
Curve = dict[str, list[tuple[int, float]]]


def curves(logs: list[Path]) -> list[Curve]:
    """For each log, by target: the steps since the first log's beginning, and the loss."""
    found: list[Curve] = []
    for log in logs:
        curve: Curve = {}
        for line in log.read_text().splitlines():
            if match := _STEP.fullmatch(line):
                words = match[3].split()
                for target, loss in zip(words[::2], words[1::2], strict=True):
                    curve.setdefault(target, []).append((int(match[1]), float(loss)))
        found.append(curve)
    return found


def draw(found: list[Curve], path: Path) -> None:
    """Write the picture; each log's first steps, of which there is no average yet, are left out."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    begun = 0  # of logs that count from nothing again
    last = 0
    for number, curve in enumerate(found):
        first = min((points[0][0] for points in curve.values()), default=0)
        if number:
            begun = last if first < last - begun else begun
            axes.axvline(begun + first, color="#8a9199", linewidth=0.8, linestyle=":")
        for target, points in curve.items():
            shown = points[5:]
            axes.plot([begun + step for step, _ in shown], [loss for _, loss in shown], color=_COLOURS[target],
                      linewidth=1.2, label=target)  # fmt: skip
            last = max(last, begun + points[-1][0])
    losses = sorted(loss for curve in found for points in curve.values() for _, loss in points)
    axes.set_ylim(0.9 * losses[len(losses) // 100], 1.1 * losses[-len(losses) // 100])  # the few steps after a restart aside
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("squared error / power of the mixture")
    axes.grid(which="both", color="#8a9199", alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(handles.values(), handles.keys(), frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Command line of ``python -m models.training.curve``."""
    parser = argparse.ArgumentParser(prog="curve", description=__doc__)
    parser.add_argument("logs", nargs="+", type=Path, metavar="LOG", help="what train printed, in the order of the runs")
    parser.add_argument("picture", type=Path, help="PNG file to write")
    options = parser.parse_args()
    missing = [str(log) for log in options.logs if not log.is_file()]
    if missing:
        parser.error(f"no such file: {', '.join(missing)}")
    found = curves(options.logs)
    if not any(found):
        parser.error("no line of a training run in these files")
    draw(found, options.picture)


if __name__ == "__main__":
    main()
