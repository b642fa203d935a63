"""What can be set of the page: the ``web:`` part of the ``demix:`` section."""

from __future__ import annotations

import ipaddress
from dataclasses import asdict, dataclass
from typing import Any

from demixr_daemon.errors import SettingError

_LEAST_TOKEN = 12


@dataclass(frozen=True)
class WebSettings:
    """Where the page is served and to whom. Field names are the keys of ``demix: web:``.

    :raises SettingError: a value makes no sense, or an address that others reach has no token.
    """

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
        if not isinstance(self.port, int) or not 0 <= self.port <= 65535:
            raise SettingError(f"demix.web.port: {self.port!r} is not a whole number from 0 to 65535")
        if not isinstance(self.upload_mb, int) or not 0 <= self.upload_mb <= 1 << 20:
            raise SettingError(f"demix.web.upload_mb: {self.upload_mb!r} is not a whole number from 0 to {1 << 20}")
        if self.token and len(self.token) < _LEAST_TOKEN:
            raise SettingError(f"demix.web.token: is shorter than {_LEAST_TOKEN} characters; `openssl rand -hex 16` makes one")
        if bool(self.certificate) != bool(self.private_key):
            raise SettingError("demix.web.certificate: certificate and private_key go together")
        if not self.token and not is_loopback(self.host):
            raise SettingError(f"demix.web.token: set one to serve on {self.host or 'all addresses'}, where others can "
                               "reach it; `openssl rand -hex 16` makes one")  # fmt: skip

    @classmethod
    def read(cls, section: Any) -> WebSettings:
        """From the ``demix:`` section of a beets configuration (a ``confuse`` view).

        :raises SettingError: a value is out of range.
        """
        web = section["web"]
        web.add(web_defaults())
        return cls(
            host=web["host"].as_str(),
            port=web["port"].get(int),
            token=str(web["token"].get() or ""),
            hosts=tuple(web["hosts"].as_str_seq()),
            upload_mb=web["upload_mb"].get(int),
            certificate=web["certificate"].as_filename() if web["certificate"].get() else "",
            private_key=web["private_key"].as_filename() if web["private_key"].get() else "",
        )


def web_defaults() -> dict[str, Any]:
    """The ``web:`` part as it is when the user says nothing."""
    return asdict(WebSettings()) | {"hosts": []}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches this address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
