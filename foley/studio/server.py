"""The studio as a web application, behind the guards of the factory's own server."""

import os

from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware

from foley.studio.workshop import Workshop
from warehouse.files import make_folder


def create(workshop: Workshop) -> FastAPI:
    """The application that uvicorn serves: the page at /."""
    uploads = make_folder(workshop.folder / "uploads")
    # read when gradio is imported: uploads stay, since records of sounds name them
    os.environ |= {"GRADIO_TEMP_DIR": str(uploads), "GRADIO_ANALYTICS_ENABLED": "False"}
    import gradio as gr

    from flows.server.guards import OwnPagesOnly, PasswordWanted, own_names
    from foley.studio.page import SCRIPT, STYLE, THEME, build

    app = gr.mount_gradio_app(
        FastAPI(),
        build(workshop),
        path="/",
        allowed_paths=[str(workshop.folder)],
        footer_links=[],
        theme=THEME,
        css=STYLE,
        head=SCRIPT,
    )
    app.add_middleware(OwnPagesOnly)
    app.add_middleware(PasswordWanted)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=own_names(), www_redirect=False)
    return app


def serve(workshop: Workshop, host: str, port: int) -> None:
    """Serve the page until somebody ends this process."""
    import uvicorn

    uvicorn.run(create(workshop), host=host, port=port, log_level="warning")
