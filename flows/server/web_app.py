"""Prefect's own web application, with the home folder's catalog and reports beside its pages."""

import os
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from prefect.server.api.server import create_app
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from flows.server.database import garbage_aside, use_sqlite_in_turn
from flows.server.guards import OwnPagesOnly, PasswordWanted, own_names
from warehouse.errors import FoleyError
from warehouse.files import file_lock, make_folder


def create() -> Starlette:
    """The application that uvicorn serves: API and UI, /catalog, and HOME/reports at /reports.

    The guards stand around Prefect's application, which its automations ask from within.
    """
    home = Path(os.environ["FOLEY_HOME"])
    lock = make_folder(home / "prefect") / "migration.lock"
    use_sqlite_in_turn()
    prefect = create_app()
    reports = StaticFiles(directory=home / "reports", html=True, check_dir=False)

    async def catalog(scope: Scope, receive: Receive, send: Send) -> None:
        answer = await run_in_threadpool(_catalog, home)
        await answer(scope, receive, send)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:
            with file_lock(lock):  # two migrations of one database fail
                await stack.enter_async_context(prefect.router.lifespan_context(prefect))
            stack.enter_context(garbage_aside())
            yield

    return Starlette(
        routes=[
            Route("/catalog", PasswordWanted(catalog)),
            Mount("/reports", PasswordWanted(reports)),
            Mount("/", prefect),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=own_names(), www_redirect=False),
            Middleware(OwnPagesOnly),
        ],
        lifespan=lifespan,
    )


def _catalog(home: Path) -> Response:
    from pipeline.report.catalog import catalog_page

    try:
        return HTMLResponse(catalog_page(home))
    except FoleyError as error:  # nothing was published yet
        return PlainTextResponse(str(error), 404)
