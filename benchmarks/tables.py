"""Tables of results, as Markdown files that say on what they were measured."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def machine() -> str:
    """The processor and the versions that matter."""
    name = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines()
                 if line.startswith("model name")), platform.processor())  # fmt: skip
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in ("torch", "numba", "openunmix"))
    return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}"


def write(name: str, title: str, *parts: str) -> None:
    """Print the parts, and write them to ``results/NAME.md``."""
    RESULTS.mkdir(exist_ok=True)
    text = "\n\n".join([f"# {title}", *parts, f"Measured on {datetime.date.today()}: {machine()}."])
    (RESULTS / f"{name}.md").write_text(text + "\n", "utf-8")
    print("\n\n".join(parts))
