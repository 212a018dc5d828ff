"""Prefect's own web application, with the home folder's reports beside its pages."""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import FastAPI
from prefect.server.api.server import create_app
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from flows.server.server import AUTH


class OwnPagesOnly:
    """Refuses what another web page sends, whose browser names that page as `Origin`.

    Else any page that somebody opens on this machine could start runs, by a plain POST or a
    WebSocket of events, for which CORS does not ask.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what comes from no page, or from one of this server."""
        headers = dict(scope.get("headers", ()))
        origin = headers.get(b"origin")
        if origin is None or origin.partition(b"://")[2] == headers.get(b"host"):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocketClose()(scope, receive, send)
        else:
            await PlainTextResponse("not from another page", 403)(scope, receive, send)


def create() -> FastAPI:
    """The application that uvicorn serves: API and UI, and HOME/reports at /reports.

    Reports are not behind Prefect's password, so with one set (the server may be open to others)
    they are left out.
    """
    app = create_app()
    app.add_middleware(OwnPagesOnly)
    reports = Path(os.environ["FOLEY_HOME"]) / "reports"
    if AUTH not in os.environ:
        app.router.routes.insert(
            0, Mount("/reports", StaticFiles(directory=reports, html=True), name="reports")
        )
    return app
