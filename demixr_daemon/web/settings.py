"""What can be set of the page: the ``web:`` part of ``demix: daemon:``."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from demixr_daemon.errors import SettingError

_LEAST_TOKEN = 12
_KINDS = {str: "a text", int: "a whole number", bool: "yes or no", list: "a list of names"}


@dataclass(frozen=True)
class WebSettings:
    """Where the page is served and to whom. Field names are the keys of ``demix: daemon: web:``.

    :raises SettingError: a value makes no sense, or an address that others reach has no token.
    """

    enabled: bool = True
    """Whether the daemon serves the page."""
    host: str = "127.0.0.1"
    """The address to listen on."""
    port: int = 8338
    """0 takes any free one."""
    token: str = ""
    """What a browser must know once; needed on every address but this machine's own."""
    hosts: tuple[str, ...] = ()
    """Names by which browsers may call this machine, beside ``localhost`` and addresses."""
    upload_mb: int = 1024
    """The largest file that can be dropped on the page, in MB; 0 takes none."""
    certificate: str = ""
    """A TLS certificate and its key, to serve https."""
    private_key: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise SettingError(f"demix.daemon.web.port: {self.port!r} is not a whole number from 0 to 65535")
        if not 0 <= self.upload_mb <= 1 << 20:
            raise SettingError(f"demix.daemon.web.upload_mb: {self.upload_mb!r} is not a whole number from 0 to {1 << 20}")
        if self.token and len(self.token) < _LEAST_TOKEN:
            raise SettingError(f"demix.daemon.web.token: is shorter than {_LEAST_TOKEN} characters; "
                               "`openssl rand -hex 16` makes one")  # fmt: skip
        if bool(self.certificate) != bool(self.private_key):
            raise SettingError("demix.daemon.web.certificate: certificate and private_key go together")
        if not self.token and not is_loopback(self.host):
            raise SettingError(f"demix.daemon.web.token: set one to serve on {self.host or 'all addresses'}, where others can "
                               "reach it; `openssl rand -hex 16` makes one")  # fmt: skip

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> WebSettings:
        """From what a configuration says.

        :raises SettingError: a setting is unknown, of the wrong type or out of range.
        """
        known = {field.name: field.default for field in fields(cls)}
        for key, value in given.items():
            if key not in known:
                raise SettingError(f"demix.daemon.web.{key}: there is no such setting; there are {', '.join(known)}")
            kind: type = list if key == "hosts" else type(known[key])
            if type(value) is not kind and value is not None:
                raise SettingError(f"demix.daemon.web.{key}: {value!r} is not {_KINDS[kind]}")
        values = {key: value for key, value in given.items() if value is not None}
        if "hosts" in values:
            values["hosts"] = tuple(map(str, values["hosts"]))
        return cls(**values)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches this address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
