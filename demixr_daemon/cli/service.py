"""``demixr run | install``: the daemon in the foreground, or as a service of systemd."""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from demixr_daemon import configuration
from demixr_daemon.configuration import Configuration
from demixr_daemon.errors import DemixrError

_UNIT = """\
[Unit]
Description=Demixr: stems for a beets library
After=network-online.target

[Service]
{environment}ExecStart={command} run
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=5
TimeoutStopSec=20
Nice=15
IOSchedulingClass=idle
MemoryHigh=3G
MemoryMax=4G
TasksMax=256
PrivateUsers=yes
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
ReadWritePaths={writable}

[Install]
WantedBy=default.target
"""


# Where beets and this program look for what is theirs; a service does not know what the shell does.
_ENVIRONMENT = ("BEETSDIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME")


def add_to(commands: Any) -> None:
    """Add these commands to the parser."""
    run = commands.add_parser("run", help="run the daemon, until Ctrl-C or TERM")
    run.add_argument("-v", "--verbose", action="store_true", help="log more")
    run.set_defaults(run=_run)
    install = commands.add_parser("install", help="run the daemon as a service of systemd, as this user")
    install.add_argument("--print", action="store_true", help="show the unit, and do nothing")
    install.set_defaults(run=_install)


def _run(arguments: argparse.Namespace) -> int:
    from demixr_daemon.daemon import Daemon

    stamp = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s "  # the journal has its own
    level = logging.DEBUG if arguments.verbose else logging.INFO
    logging.basicConfig(format=stamp + "%(levelname)s %(message)s", level=level)
    for noisy in ("dbos", "sqlalchemy", "watchdog"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    Daemon(configuration.read(arguments.config)).run()
    return 0


def unit(settings: Configuration, command: str) -> str:
    """The systemd unit for these settings."""
    options = settings.daemon
    folders = [settings.music, settings.library.parent, settings.state_dir, options.watch_default, options.watch_singleton,
               Path.home() / ".cache", Path.home() / ".config" / "beets"]  # fmt: skip
    places = {name: os.path.abspath(place) for name in _ENVIRONMENT if (place := os.environ.get(name))}  # noqa: PTH100
    folders += map(Path, places.values())
    quoted = [f'"-{folder}"' for folder in dict.fromkeys(folders) if folder]  # "-": it may not be there
    environment = "".join(f'Environment="{name}={place}"\n' for name, place in places.items())
    parts = {"command": command, "environment": environment, "writable": " ".join(quoted)}
    return _UNIT.format(**{name: part.replace("%", "%%") for name, part in parts.items()})


def _install(arguments: argparse.Namespace) -> int:
    settings = configuration.read(arguments.config)
    words = [sys.executable, "-m", "demixr_daemon", *(["-c", str(arguments.config.resolve())] if arguments.config else [])]
    content = unit(settings, " ".join(f'"{word}"' if " " in word else word for word in words))
    if arguments.print:
        print(content, end="")
        return 0
    path = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user" / "demixr.service"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    print(f"written: {path}")
    for action in (["daemon-reload"], ["enable", "--now", "demixr.service"]):
        try:
            subprocess.run(["systemctl", "--user", *action], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise DemixrError(f"systemctl --user {' '.join(action)} failed: {error}; run it yourself") from error
    print("`journalctl --user -u demixr -f` shows what it does; `loginctl enable-linger` lets it run when you are logged out")
    return 0
