"""`foley source`: the folders that a warehouse's clips come from. None of it needs Prefect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from foley.cli.options import FORMAT, HOME

if TYPE_CHECKING:
    from warehouse.catalog.rendering import Format


@click.group()
def source() -> None:
    """Folders that are scanned for new clips: add, list, remove."""


@source.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@HOME
@click.option("--name", help="Name of the source.  [default: the folder's own]")
def add(folder: Path, home: Path, name: str | None) -> None:
    """Register FOLDER: the next curation scans it."""
    from pipeline.curation.registry import register
    from pipeline.curation.sources import has_media
    from warehouse import Warehouse

    warehouse = Warehouse(home)
    added = register(warehouse, folder, name)
    warehouse.publish()
    click.echo(f"{added.name}: {added.place}")
    if not has_media(added.place):
        note = "there is no clip in it yet; is it the right folder? foley source remove"
        click.echo(f"foley: {note} {added.name} takes it back", err=True)


@source.command("list")
@HOME
@FORMAT
def list_(home: Path, format: Format) -> None:
    """Sources, their clips, and the last scan."""
    from foley.cli.catalog import show
    from warehouse import query
    from warehouse.store import open_warehouse

    open_warehouse(home).publish()
    show(
        query(home, "select * exclude removed from sources where not removed order by name"), format
    )


@source.command()
@click.argument("name")
@HOME
def remove(name: str, home: Path) -> None:
    """Scan NAME no more, and select none of its clips.

    What was measured of them stays, for when it is added again.
    """
    from pipeline.curation.registry import remove as run
    from warehouse.store import open_warehouse

    warehouse = open_warehouse(home)
    run(warehouse, name)
    warehouse.publish()
    click.echo(f"{name} is removed: the next selection is without its clips")
