"""What ``beet demix`` tells of a track: how far it is, and how much disk its stems will take."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from beets.library import Item

from demixr_daemon.settings import Options

# Stem files against the size of the samples in them: what music typically comes to.
_FLAC_RATIO = 0.55


def stem_bytes(item: Item, options: Options) -> float:
    """About how much disk the stems of a track will take."""
    rate: float
    if options.format in ("flac", "wav"):
        ratio = _FLAC_RATIO if options.format == "flac" else 1.0
        depth = {"auto": item.bitdepth or 16, "float": 32}.get(options.bits) or int(options.bits)
        rate = item.samplerate * (item.channels or 2) * depth * ratio
    else:
        rate = options.bitrate * 1000.0
    size: float = len(options.stems) * item.length * rate / 8
    return size


@contextlib.contextmanager
def progress_bar(label: str, item: Item, *, hidden: bool) -> Iterator[Callable[[int, int | None], None] | None]:
    """A bar on a terminal; nothing elsewhere, where each track is a line when it is done."""
    if hidden or not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    layout = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    with tqdm(total=100.0, desc=label[:40], leave=False, bar_format=layout) as bar:

        def progress(done: int, total: int | None) -> None:
            samples = total or round(item.length * item.samplerate) or done
            bar.n = min(100.0, 100.0 * done / samples)
            bar.refresh()

        yield progress
