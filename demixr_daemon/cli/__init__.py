"""The ``demixr`` command. Exit codes: 0 all well, 1 something failed, 2 wrong usage, 130 interrupted.

    models     list, download, verify, export and remove models
    jobs       status, add, retry, cancel, prune
    service    run, install
    web        the page, served alone
    doctor     is everything there that is needed?
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from demixr_daemon.cli import doctor, jobs, models, service, web
from demixr_daemon.errors import DemixrError
from demixr_daemon.evaluation import command as evaluation


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        print(end="", flush=True)
    except BrokenPipeError:  # `demixr status | head -1`: who reads has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (DemixrError, OSError) as error:
        print(f"demixr: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demixr: interrupted", file=sys.stderr)
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="demixr", description="Demixr for beets: stems for a music library.")
    parser.add_argument("-c", "--config", type=Path, help="beets configuration to read (default: beets' own)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    service.add_to(commands)
    jobs.add_to(commands)
    web.add_to(commands)
    doctor.add_to(commands)
    models.add_to(commands)
    evaluation.add_parser(commands, models.store_of)
    return parser
