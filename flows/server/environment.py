"""Settings that Prefect reads when it is first imported, and the API that runs report to.

Nothing here imports prefect: everything must be in place before the first `import prefect`.
"""

from __future__ import annotations

import os
from pathlib import Path

from flows.server.embedded import EmbeddedServer
from flows.server.server import SETTINGS, found

_DEFAULTS = SETTINGS | {
    # The terminal shows progress bars and one line an error; every log line still goes to Prefect's
    # API.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    # A first start migrates its database: on a slow machine that outlasts Prefect's 20 s.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
}


def set_up_prefect(home: Path) -> EmbeddedServer | None:
    """Settle where the flows of this process report to; once a process, before prefect is imported.

    With PREFECT_API_URL set runs report there; with PREFECT_HOME set, that Prefect configuration
    decides. With neither, they report to the server that `foley up` keeps for the home folder, or,
    where there is none, to an embedded one with its database under HOME/prefect, which starts in
    the background and is returned.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    if "PREFECT_API_URL" in os.environ or "PREFECT_HOME" in os.environ:
        return None
    os.environ["PREFECT_HOME"] = str(home / "prefect")
    if serving := found(home):
        os.environ |= serving.environment()
        return None
    server = EmbeddedServer(home / "prefect")
    server.start()
    os.environ["PREFECT_API_URL"] = server.url
    return server
