"""Commands that bring and check the weights of a preset's models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from foley.cli.options import NEW_WEIGHTS, PRESET
from foley.cli.quiet import quietly


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
    from model.hub.fetch import fetchable, source
    from model.presets.preset import load_preset

    found = load_preset(preset, weights)
    wanted = names or fetchable(found)
    if not wanted:
        click.echo(f"Nothing to fetch: preset {preset!r} ships its weights, in {found.weights}")
        return
    run(
        found,
        wanted,
        lambda name, files: click.echo(f"{name}: {source(files)} ({files.licence})", err=True),
    )
    click.echo(f"{', '.join(wanted)}: in {found.weights}")


@models.command()
@PRESET
@NEW_WEIGHTS
@click.option(
    "--format", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True
)
def check(preset: str, weights: Path | None, format: Any) -> None:
    """What is there of each model, its hash and licence, and whether it fits.

    Exit code 1 if something is amiss.
    """
    from model.hub.fetch import check as run
    from model.hub.fetch import page
    from model.presets.preset import load_preset
    from warehouse.catalog.rendering import render

    with quietly():
        found = load_preset(preset, weights)
        models = run(found)
    rows = [
        {
            "model": one.model,
            "state": one.state,
            "parameters": f"{one.parameters / 1e6:.1f}M" if one.parameters else None,
            "memory": _size(4 * one.parameters)
            if one.parameters
            else None,  # as loaded, in float32
            "disk": _size(one.bytes) if one.bytes else None,
            "sha256": one.sha256 if format == "json" else (one.sha256 or "")[:12],
            "revision": one.revision if format == "json" else (one.revision or "")[:12],
            "licence": one.files.licence + (" (gated)" if one.files.gated else ""),
            "page": page(one.files),
            "path": str(found.model(one.model)),
            "problem": one.problem,
        }
        for one in models
    ]
    columns = list(rows[0]) if format != "table" else list(rows[0])[:8]
    click.echo(render(columns, rows, format))
    problems = [row for row in rows if row["problem"]]
    for row in problems:
        click.echo(f"{row['model']}: {row['problem']}", err=True)
    if problems:
        raise SystemExit(1)


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
