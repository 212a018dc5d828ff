"""The command that serves the studio's page."""

import re
from importlib.util import find_spec
from pathlib import Path

import click

from foley.cli.options import HOME, PRESET
from foley.cli.quiet import quietly
from warehouse.errors import FoleyError


@click.command()
@HOME
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to bind to.")
@click.option("--port", type=click.IntRange(1, 65535), default=7860, show_default=True)
@PRESET
@click.option("--weights", type=click.Path(path_type=Path), help="Folder of weights.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--low-memory", is_flag=True, help="As in foley generate: for small GPUs.")
def studio(home: Path, host: str, port: int, **options: object) -> None:
    """Serve a page that makes sound for your own footage, until Ctrl-C."""
    if find_spec("gradio") is None:
        raise FoleyError("the studio is not installed: uv sync --extra studio")
    from flows.server.server import check_address
    from foley.studio.workshop import Workshop
    from pipeline.generation.options import GenerateOptions

    check_address(host, port)
    asked = GenerateOptions.of(**options)
    asked.sampling_preset()  # before the page is there: no such preset
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", asked.device):
        raise FoleyError(f"device {asked.device!r}: give auto, cpu, cuda or cuda:N")
    if asked.low_memory:
        from model.low_memory import check_torchao

        check_torchao()
    with quietly():
        from foley.studio.server import serve

        click.echo(f"studio: http://{host}:{port}  (Ctrl-C ends it)", err=True)
        serve(Workshop(home, asked), host, port)
