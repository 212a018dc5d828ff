"""Prefect's own web application, with the home folder's reports beside its pages."""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import FastAPI
from prefect.server.api.server import create_app
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from flows.server import AUTH


def create() -> FastAPI:
    """The application that uvicorn serves: API and UI, and HOME/reports at /reports.

    Reports are not behind Prefect's password, so with one set (the server may be open to others) they are left out.
    """
    app = create_app()
    reports = Path(os.environ["FOLEY_HOME"]) / "reports"
    if AUTH not in os.environ:
        app.router.routes.insert(0, Mount("/reports", StaticFiles(directory=reports, html=True), name="reports"))
    return app
