"""Who may ask, and what every answer says of itself.

- A page of another site that had its name point at this machine (DNS rebinding) calls it by that name: only ``localhost``, bare
  addresses and names from the settings are answered.
- A page of another site that sends a form or a fetch (CSRF) has another origin: nothing is changed for it, and nothing of the
  library is shown to it.
- Where others can reach the address, a browser must know the token; it is asked once and kept in a cookie no script can read.
"""

from __future__ import annotations

import hmac
import ipaddress
from urllib.parse import urlsplit

from flask import Request, Response
from werkzeug.exceptions import Forbidden, MisdirectedRequest, Unauthorized

COOKIE = "demixr_token"
_YEAR_S = 365 * 86400
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")

# wasm-unsafe-eval: WebAssembly, for the time stretching. data: the marks and arrows of the style sheet.
_POLICY = ("default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
           "connect-src 'self'; media-src 'self'; worker-src 'self'; manifest-src 'self'; base-uri 'none'; "
           "form-action 'none'; frame-ancestors 'none'")  # fmt: skip
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


def check_host(request: Request, names: tuple[str, ...]) -> None:
    """Refuse what calls this machine by a name that is not its own.

    :raises MisdirectedRequest: the ``Host`` is a stranger's.
    """
    host = urlsplit(f"//{request.headers.get('Host', '')}").hostname or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if host != "localhost" and host not in {name.lower() for name in names}:
            message = "not known by this name; if it is this machine's, add it to demix.daemon.web.hosts"
            raise MisdirectedRequest(message) from None


def check_origin(request: Request) -> None:
    """Refuse what another site's page asks for.

    :raises Forbidden: it comes from elsewhere.
    """
    origin = request.headers.get("Origin")
    site = request.headers.get("Sec-Fetch-Site", "none")
    navigation = request.method in _SAFE_METHODS and request.headers.get("Sec-Fetch-Mode") == "navigate"
    own = f"{request.scheme}://{request.headers.get('Host', '')}"
    if (origin is not None and origin != own) or (site not in ("same-origin", "none") and not navigation):
        raise Forbidden("this was sent by another site")


def check_token(request: Request, token: str) -> None:
    """Refuse who does not know the token, if there is one.

    :raises Unauthorized: it is missing or wrong.
    """
    if not token:
        return
    bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if not any(same(given, token) for given in (bearer, request.cookies.get(COOKIE, "")) if given):
        raise Unauthorized("the token of this page is needed: it is in the settings, demix.daemon.web.token")


def same(given: str, token: str) -> bool:
    """Compare in a time that tells nothing."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode("utf-8", "surrogateescape"))


def remember(response: Response, token: str, *, secure: bool) -> None:
    """Let the browser keep the token where no script reads it and no other site sends it."""
    response.set_cookie(COOKIE, token, max_age=_YEAR_S, httponly=True, samesite="Strict", secure=secure)


def seal(response: Response) -> Response:
    """The headers of every answer."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    return response
