"""Commands that run the factory: Prefect's server, workers and deployments."""

import os
from pathlib import Path

import click

from foley.cli.options import HOME
from foley.cli.quiet import quietly
from warehouse.errors import FoleyError

GPUS = click.option(
    "--gpus",
    type=click.IntRange(0, 64),
    default=1,
    show_default=True,
    help="Runs that use a device at once; 0 where other machines have them: no worker for them.",
)
WEBHOOK = click.option(
    "--webhook", metavar="URL", help="Where trouble is told; kept as a secret block."
)


@click.command()
@HOME
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to bind to.")
@click.option("--port", type=click.IntRange(1, 65535), default=4200, show_default=True)
@GPUS
@WEBHOOK
def up(home: Path, host: str, port: int, gpus: int, webhook: str | None) -> None:
    """Start Prefect's server, workers and UI, and register every deployment."""
    from flows.display.progress_bars import bar
    from flows.server.server import CPU_POOL, POOLS, Serving, start, stop

    serving = Serving(home, host, port)
    with quietly(), bar("start", 2) as progress:
        start(serving, POOLS if gpus else [CPU_POOL])
        progress.update()
        os.environ |= serving.environment()
        try:
            names = _register(home, gpus, webhook)
        except BaseException:
            stop(serving.home)
            raise
        progress.update()
    click.echo(f"UI: {serving.address}")
    click.echo(f"catalog: {serving.address}/catalog")
    click.echo(f"deployments: {', '.join(names)}")
    click.echo(f"logs: {serving.folder}; foley down stops it")


@click.command()
@HOME
def down(home: Path) -> None:
    """Stop what `foley up` started; runs under way end, and what is committed stays."""
    from flows.server.server import stop

    click.echo("stopped" if stop(home) else f"nothing was up for {home}")


@click.command()
@HOME
@GPUS
@WEBHOOK
def deploy(home: Path, gpus: int, webhook: str | None) -> None:
    """Register deployments, schedules and automations on a server that is there.

    It is the server at PREFECT_API_URL, or that of `foley up`.
    """
    from flows.server.server import running_server

    if "PREFECT_API_URL" not in os.environ:
        serving = running_server(home)
        if serving is None:
            raise click.UsageError("no server: run foley up, or set PREFECT_API_URL")
        os.environ |= serving.environment()
    click.echo(f"deployments: {', '.join(_register(home, gpus, webhook))}")


def _register(home: Path, gpus: int, webhook: str | None) -> list[str]:
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    from httpx import HTTPError

    from flows.server.register import register

    try:
        return register(home, gpus, webhook)
    except HTTPError as error:  # Prefect's own errors are of this kind
        server, why = os.environ["PREFECT_API_URL"], str(error).splitlines()[0]
        raise FoleyError(f"the server at {server} did not take it ({why}): try again") from None
