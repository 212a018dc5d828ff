"""Who the server answers: pages of its own, by names of its own, and people who have the password.

Without these, any page that somebody opens on this machine could start runs: by a plain POST or a
WebSocket of events, for which CORS does not ask, or by a name of its own that it has resolve to
this machine (DNS rebinding), which makes it a page of the same origin.
"""

import os
import socket
from base64 import b64encode
from collections.abc import Iterator, MutableMapping
from hmac import compare_digest
from urllib.parse import urlsplit

import psutil
from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from flows.server.server import AUTH

#: The v2 page loads an analytics library that asks its maker's host, whatever the settings say;
#: the browser then asks nobody but us.
_POLICY = (
    "connect-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "object-src 'none'; base-uri 'self'; frame-ancestors 'none'"
)


def own_names() -> list[str]:
    """What this server may be called in a request: names and addresses of this machine.

    And the hosts of PREFECT_API_URL and PREFECT_UI_URL, which is what a proxy before it is called.
    """
    return sorted({"localhost", "[::1]", "127.0.0.1", socket.gethostname().lower(), *_given()})


def _given() -> Iterator[str]:
    for name in ("PREFECT_API_URL", "PREFECT_UI_URL"):
        if host := urlsplit(os.environ.get(name, "")).hostname:
            yield f"[{host}]" if ":" in host else host
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            host = address.address.partition("%")[0]
            if address.family == socket.AF_INET:
                yield host
            elif address.family == socket.AF_INET6:
                yield f"[{host}]"


class OwnPagesOnly:
    """Refuses what another web page sends, whose browser names that page as `Origin`.

    And has the browser keep our pages from asking other hosts.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what comes from no page, or from one of this server."""
        headers = dict(scope.get("headers", ()))
        origin = headers.get(b"origin")

        async def answer(message: MutableMapping[str, object]) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = _POLICY
            await send(message)

        if origin is None or origin.partition(b"://")[2] == headers.get(b"host"):
            await self.app(scope, receive, answer)
        elif scope["type"] == "websocket":
            await WebSocketClose()(scope, receive, send)
        else:
            await PlainTextResponse("not from another page", 403)(scope, receive, send)


class PasswordWanted:
    """Has a browser ask for the password of the API, where one is set."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on who has it."""
        given = dict(scope.get("headers", ())).get(b"authorization", b"")
        wanted = b"Basic " + b64encode(os.environ.get(AUTH, "").encode())
        is_message = scope["type"] != "lifespan"
        if is_message and os.environ.get(AUTH) and not compare_digest(given, wanted):
            await self._refuse(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await WebSocketClose()(scope, receive, send)
            return
        ask = {"WWW-Authenticate": 'Basic realm="foley"'}
        await PlainTextResponse("the password is wanted", 401, ask)(scope, receive, send)
