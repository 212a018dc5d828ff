"""Commands that look at the warehouse and keep it in order. None of them needs Prefect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from foley.cli.options import HOME, SEED, home_folder
from warehouse.errors import FoleyError

if TYPE_CHECKING:
    import pyarrow as pa

    from warehouse import Warehouse
    from warehouse.catalog.rendering import Format

COUNT, PRICE = click.IntRange(1), click.FloatRange(0)
OUTPUT = click.Path(dir_okay=False, path_type=Path)


def _open(home: Path | None) -> Warehouse:
    """The warehouse of a home folder. Raises FoleyError for one that is not there."""
    from warehouse import Warehouse

    folder = home_folder(home)
    if not folder.is_dir():
        advice = "run foley demo, or foley curate FOLDER, or give --home"
        raise FoleyError(f"there is nothing in {folder} yet: {advice}")
    return Warehouse(folder)


def _print(rows: pa.Table, format: Format = "table") -> None:
    from warehouse.catalog.rendering import render

    click.echo(render(rows.column_names, rows.to_pylist(), format))


@click.command()
@click.argument("query")
@HOME
@click.option("--format", type=click.Choice(["table", "csv", "json"]), default="table")
@click.option("--output", type=OUTPUT, help="Write the rows to this .csv, .json or .parquet file.")
@click.option("--features", metavar="ID", help="Add this feature set, as the view `arrays`.")
def sql(
    query: str, home: Path | None, format: Any, output: Path | None, features: str | None
) -> None:
    """Run a read-only SQL query on the catalog, such as "select * from funnel"."""
    from warehouse import query as run
    from warehouse.catalog.rendering import write

    rows = run(home_folder(home), query, features=features)
    if output is None:
        _print(rows, format)
    else:
        write(rows, output)
        click.echo(f"{rows.num_rows} rows in {output}")


@click.command()
@HOME
def status(home: Path | None) -> None:
    """Where the work stands: clips by stage, speed, time to finish, disk."""
    from foley.cli.output import status as summary
    from warehouse import status as read
    from warehouse.runs import mark_killed_runs

    warehouse = _open(home)
    mark_killed_runs(warehouse)
    click.echo(summary(read(warehouse)))


@click.command()
@HOME
@click.option("--delete", is_flag=True, help="Remove what is left behind; without it, only list.")
@click.option("--unused", is_flag=True, help="Also results and pages that are out of use.")
@click.option("--deep", is_flag=True, help="Read every file and check its checksums.")
@click.option("--retry", metavar="STAGE", multiple=True, help="Let failed clips be tried again.")
@click.option("--reason", metavar="LIKE", help="SQL pattern of '<error>: <message>' to retry.")
@click.option("--dry-run", is_flag=True, help="Change nothing: only list and look for damage.")
def maintain(home: Path | None, **options: Any) -> None:
    """Merge small commits, list what dead runs left, and name damaged files (exit code 1)."""
    from foley.cli.output import maintained as summary
    from warehouse.maintenance import Maintenance
    from warehouse.maintenance import maintain as run

    warehouse = _open(home)
    done = run(warehouse, Maintenance(**options))
    if not options["dry_run"]:
        warehouse.publish()
    click.echo(summary(done, options["delete"]))
    if done.problems:
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("what")
@HOME
def lineage(what: str, home: Path | None) -> None:
    """Show what WHAT came from: a sound, checkpoint, evaluation, feature set, dataset or clip."""
    from warehouse import trace

    _print(trace(home_folder(home), what))


@click.command()
@HOME
@click.option("--clips", type=COUNT, required=True, help="Clips to come.")
@click.option("--gpus", type=COUNT, default=1, show_default=True, help="Devices for models.")
@click.option("--workers", type=COUNT, default=1, show_default=True, help="Cores for the rest.")
@click.option("--gpu-price", type=PRICE, default=0.0, help="Price of a device's hour.")
@click.option("--worker-price", type=PRICE, default=0.0, help="Price of a core's hour.")
def plan(home: Path | None, clips: int, **resources: Any) -> None:
    """Hours, disk and cost of each stage for more clips, from the rates measured here."""
    from foley.cli.output import plan as summary
    from warehouse.catalog.capacity import Resources, capacity

    click.echo(summary(capacity(home_folder(home), clips, Resources(**resources))))


@click.command()
@click.argument("what", type=click.Choice(["curation"]), expose_value=False)
@HOME
@click.option("--dataset", help="Dataset name or version.  [default: the newest]")
@click.option("--out", type=OUTPUT, help="File to write.  [default: in HOME/reports]")
@SEED
def report(home: Path | None, dataset: str | None, out: Path | None, seed: int) -> None:
    """Write a page of what a curation kept and dropped, and why, with clips to watch and hear."""
    from pipeline.curation.page import gather_page
    from pipeline.report.curation import write_curation_page
    from warehouse.datasets.versions import page_of

    folder = home_folder(home)
    page = gather_page(folder, dataset, seed)
    path = out or page_of(folder, page.dataset["version"])
    write_curation_page(path, page)
    click.echo(str(path))


KEEPING: tuple[click.Command, ...] = (sql, status, report, maintain, lineage, plan)
