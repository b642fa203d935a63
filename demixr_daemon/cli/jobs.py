"""``demixr status | add | retry | cancel | prune``: asking the daemon for work, and looking at it. It need not be running."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from demixr_daemon import configuration
from demixr_daemon.configuration import Configuration
from demixr_daemon.errors import DemixrError
from demixr_daemon.jobs import presence
from demixr_daemon.jobs.listing import SqliteListing
from demixr_daemon.jobs.view import STATES, UNFINISHED, JobRow

if TYPE_CHECKING:  # they bring SQLAlchemy, which `demixr status` can mostly do without
    from demixr_daemon.jobs.work import Jobs

_WATCH_S = 1.0
_BAR = 20


def add_to(commands: Any) -> None:
    """Add these commands to the parser."""
    status = commands.add_parser("status", help="what is being done, waits, or went wrong")
    status.add_argument("--json", action="store_true", help="one JSON document: counts and jobs")
    status.add_argument("--watch", action="store_true", help="show it until Ctrl-C")
    status.add_argument("-n", "--limit", type=int, default=20, metavar="N", help="show N jobs at most (default 20)")
    status.add_argument("--state", action="append", choices=STATES, default=[], help="only these; may be repeated")
    status.set_defaults(run=_status)
    add = commands.add_parser("add", help="take in files, folders or URLs, before all that waits")
    add.add_argument("source", nargs="+", metavar="PATH|URL")
    add.set_defaults(run=_add)
    for name, words in (("retry", "let failed or cancelled jobs run again"), ("cancel", "stop jobs")):
        command = commands.add_parser(name, help=words)
        command.add_argument("key", nargs="*", help="as `demixr status` shows it")
        command.add_argument("--all", action="store_true", help="all failed ones" if name == "retry" else "all unfinished ones")
        command.set_defaults(run=_retry if name == "retry" else _cancel)
    prune = commands.add_parser("prune", help="forget finished jobs; what was done is not done again")
    prune.add_argument("--days", type=float, default=0.0, help="only those that ended so many days ago (default 0)")
    prune.set_defaults(run=_prune)


def _opened(settings: Configuration) -> Jobs:
    from demixr_daemon.jobs.database import Database
    from demixr_daemon.jobs.work import Jobs

    return Jobs(Database(settings.daemon.jobs_url, settings.state_dir))


def _status(arguments: argparse.Namespace) -> int:
    settings = configuration.read(arguments.config)
    work = _opened(settings) if settings.daemon.jobs_url else SqliteListing(settings.state_dir)
    if arguments.json:
        listed = [dataclasses.asdict(row) for row in work.rows(arguments.limit, arguments.state)]
        print(json.dumps({"counts": work.counts(), "jobs": listed}, indent=2))
        return 0
    if not arguments.watch:
        rows, width = work.rows(arguments.limit, arguments.state), shutil.get_terminal_size().columns
        counts = work.counts()
        print("\n".join(table(rows, counts, width, states=arguments.state)))
        here = not settings.daemon.jobs_url  # of others' daemons this machine knows nothing
        if here and any(counts.get(state) for state in UNFINISHED) and not presence.at_work(settings.state_dir):
            print("no daemon is at work: `demixr run` goes on with them")
        return 0
    drawn = 0
    try:
        while True:
            size = shutil.get_terminal_size()
            rows = work.rows(min(arguments.limit, max(1, size.lines - 4)), arguments.state)
            lines = table(rows, work.counts(), size.columns, states=arguments.state, bars=True)
            up = f"\033[{drawn}A\033[J" if drawn and sys.stdout.isatty() else ""
            print(up + "\n".join(lines), flush=True)
            drawn = len(lines)
            time.sleep(_WATCH_S)
    except KeyboardInterrupt:
        return 0


def table(
    rows: Sequence[JobRow], counts: dict[str, int], width: int, *, states: Sequence[str] = (), bars: bool = False
) -> list[str]:
    """The jobs as lines; what went wrong has a second one.

    :param states: of which jobs these are rows; none: of all.
    """
    total = ", ".join(f"{counts[state]} {state}" for state in STATES if counts.get(state))
    if not rows:
        return [total or "no jobs"]
    wide = _BAR if bars else 5
    lines = [f"{'JOB':13} {'STATE':9} {'STAGE':9} {'':>{wide}} {'SPEED':>6} {'LEFT':>8}  TITLE"]
    for row in rows:
        progress = _bar(row.progress) if bars else f"{row.progress:4.0%}" if row.progress is not None else ""
        speed = f"{row.speed:.1f}x" if row.speed else ""
        left = str(datetime.timedelta(seconds=round(row.left_s))) if row.left_s is not None else ""
        lines.append(f"{row.key:13} {row.state:9} {row.stage:9} {progress:>{wide}} {speed:>6} {left:>8}  {row.title}")
        if row.reason:
            lines.append(f"{'':14}{row.reason}")
    if (more := sum(count for state, count in counts.items() if not states or state in states) - len(rows)) > 0:
        lines.append(f"... and {more} more")
    lines.append(total)
    return [line[: width - 1].rstrip() if sys.stdout.isatty() else line.rstrip() for line in lines]


def _bar(progress: float | None) -> str:
    filled = round((progress or 0.0) * _BAR)
    return "#" * filled + "-" * (_BAR - filled) if progress is not None else ""


def _add(arguments: argparse.Namespace) -> int:
    work = _opened(configuration.read(arguments.config))
    failed = 0
    for source in arguments.source:
        try:
            for key in work.add([source]):
                row = work.row(key)
                state = row.state if row else "came before, and is not done again"
                print(f"{key}  {row.title if row else source}" + (f"  ({state})" if state != "waiting" else ""))
        except DemixrError as error:
            failed += 1
            print(f"demixr: {error}", file=sys.stderr)
    return 1 if failed else 0


def _retry(arguments: argparse.Namespace) -> int:
    work = _opened(configuration.read(arguments.config))
    return _each(arguments, work, ("failed",), work.retry, "no failed or cancelled job")


def _cancel(arguments: argparse.Namespace) -> int:
    work = _opened(configuration.read(arguments.config))
    return _each(arguments, work, ("waiting", "running", "paused"), work.cancel, "no unfinished job")


def _each(arguments: argparse.Namespace, work: Jobs, states: Sequence[str], do: Callable[[str], bool], nothing: str) -> int:
    if bool(arguments.key) == arguments.all:
        print("demixr: name the jobs, or --all; `demixr status` shows their keys", file=sys.stderr)
        return 2
    keys = [row.key for row in work.rows(10**9, states)] if arguments.all else arguments.key
    missing = [key for key in keys if not do(key)]
    for key in [] if arguments.all else missing:
        print(f"demixr: {key}: there is {nothing} of this key", file=sys.stderr)
    if arguments.all:
        print(f"{len(keys) - len(missing)} jobs")
    return 1 if missing and not arguments.all else 0


def _prune(arguments: argparse.Namespace) -> int:
    work = _opened(configuration.read(arguments.config))
    print(f"{work.prune(arguments.days * 86400)} finished jobs forgotten")
    return 0
