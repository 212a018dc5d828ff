"""Commands that bring and check the weights of a preset's models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from foley.cli.options import FORMAT, PRESET
from foley.cli.quiet import quietly

if TYPE_CHECKING:
    from model.hub.check import ModelState
    from model.presets.networks import ModelFiles
    from warehouse.catalog.rendering import Format

NEW_WEIGHTS = click.option(
    "--weights", type=click.Path(path_type=Path), help="Folder of weights; made where it is none."
)


@click.group()
def models() -> None:
    """Bring and check the weights of a preset's models."""


@models.command()
@click.argument("names", nargs=-1, metavar="[MODEL]...")
@PRESET
@NEW_WEIGHTS
def fetch(names: tuple[str, ...], preset: str, weights: Path | None) -> None:
    """Download the models of a preset (all, or those named); goes on where it stopped.

    The first fetch notes commits and hashes in models.lock.json, later ones bring just that.
    """
    from model.hub.fetch import fetch as run
    from model.presets.preset import load_preset

    loaded = load_preset(preset, weights)
    names = names or tuple(name for name, files in loaded.models.items() if files.source)
    if not names:
        click.echo(f"Nothing to fetch: preset {preset!r} ships its weights, in {loaded.weights}")
        return

    def show(name: str, files: ModelFiles) -> None:
        click.echo(f"{name}: {files.source} ({files.licence})", err=True)

    run(loaded, names, show)
    click.echo(f"{', '.join(names)}: in {loaded.weights}")


@models.command()
@PRESET
@NEW_WEIGHTS
@FORMAT
def check(preset: str, weights: Path | None, format: Format) -> None:
    """What is there of each model, its hash and licence, and whether it fits.

    Exit code 1 if something is amiss.
    """
    from model.hub.check import check as run
    from model.presets.preset import load_preset
    from warehouse.catalog.rendering import render

    with quietly():
        loaded = load_preset(preset, weights)
        states = run(loaded)
    rows = [_row(state, loaded.model(state.model)) for state in states]
    if format != "json":  # a table has room for the first digits
        rows = [
            row | {name: (row[name] or "")[:12] for name in ("sha256", "revision")} for row in rows
        ]
    click.echo(render(rows, format, list(rows[0])[:8] if format == "table" else None))
    problems = [state for state in states if state.problem]
    for state in problems:
        click.echo(f"{state.model}: {state.problem}", err=True)
    if problems:
        raise SystemExit(1)


def _row(state: ModelState, path: Path) -> dict[str, Any]:
    count, files = state.parameters, state.files
    return {
        "model": state.model,
        "state": state.state,
        "parameters": f"{count / 1e6:.1f}M" if count else None,
        "memory": _size(4 * count) if count else None,  # as loaded, in float32
        "disk": _size(state.bytes) if state.bytes else None,
        "sha256": state.sha256,
        "revision": state.revision,
        "licence": files.licence + (" (gated)" if files.gated else ""),
        "page": files.home_page,
        "path": str(path),
        "problem": state.problem,
    }


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
