"""Commands that look at the warehouse and keep it in order. None of them needs Prefect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from foley.cli.options import FORMAT, HOME, SEED

if TYPE_CHECKING:
    import pyarrow as pa

    from warehouse.catalog.rendering import Format
    from warehouse.exchange.transfer import Exchanged

COUNT, PRICE = click.IntRange(1), click.FloatRange(0)
OUTPUT = click.Path(dir_okay=False, path_type=Path)


def show(rows: pa.Table, format: Format = "table") -> None:
    """Print rows."""
    from warehouse.catalog.rendering import render

    click.echo(render(rows.to_pylist(), format, rows.column_names))


@click.command()
@click.argument("query")
@HOME
@FORMAT
@click.option("--output", type=OUTPUT, help="Write the rows to this .csv, .json or .parquet file.")
@click.option("--features", metavar="ID", help="Add this feature set, as the view `arrays`.")
def sql(query: str, home: Path, format: Format, output: Path | None, features: str | None) -> None:
    """Run a read-only SQL query on the catalog, such as "select * from funnel"."""
    from warehouse import query as run
    from warehouse.catalog.rendering import write

    rows = run(home, query, features=features)
    if output is None:
        show(rows, format)
    else:
        write(rows, output)
        click.echo(f"{rows.num_rows} rows in {output}")


@click.command()
@HOME
def status(home: Path) -> None:
    """Where the work stands: clips by stage, speed, time to finish, disk."""
    from foley.cli.output import status as summary
    from warehouse import status as read
    from warehouse.runs import mark_killed_runs
    from warehouse.store import open_warehouse

    warehouse = open_warehouse(home)
    if warehouse.writable:
        mark_killed_runs(warehouse)
    click.echo(summary(read(warehouse)))


@click.command()
@HOME
@click.option("--delete", is_flag=True, help="Remove what is left behind; without it, only list.")
@click.option("--unused", is_flag=True, help="Also results and pages that are out of use.")
@click.option("--keep", type=COUNT, help="Dataset versions to keep of each name.  [default: all]")
@click.option("--deep", is_flag=True, help="Read every file and check its checksums.")
@click.option("--retry", metavar="STAGE", multiple=True, help="Let failed clips be tried again.")
@click.option("--reason", metavar="LIKE", help="SQL pattern of '<error>: <message>' to retry.")
@click.option("--dry-run", is_flag=True, help="Change nothing: only list and look for damage.")
def maintain(home: Path, **options: Any) -> None:
    """Merge small commits, list what dead runs left, and name damaged files (exit code 1)."""
    from foley.cli.output import maintained as summary
    from warehouse.maintenance import Maintenance
    from warehouse.maintenance import maintain as run
    from warehouse.store import open_warehouse

    warehouse = open_warehouse(home)
    done = run(warehouse, Maintenance(**options))
    if not options["dry_run"]:
        warehouse.publish_if_possible()
    click.echo(summary(done, options["delete"]))
    if done.problems:
        raise click.exceptions.Exit(1)


@click.command()
@HOME
@click.option("--repair", is_flag=True, help="Set aside what can be made again, to be made again.")
@click.option("--digest", is_flag=True, help="Print hashes of the results too, the last of all.")
def verify(home: Path, repair: bool, digest: bool) -> None:
    """Read every file, and name those that are not as they were written (exit code 1)."""
    from foley.cli.output import problems
    from warehouse import verify as look
    from warehouse.catalog.rendering import render
    from warehouse.datasets.digest import digests
    from warehouse.maintenance import repair as mend
    from warehouse.store import open_warehouse

    warehouse = open_warehouse(home)
    done, left = mend(warehouse) if repair else ([], look(warehouse))
    click.echo(problems([*done, *left]))
    if digest:
        click.echo(render(digests(warehouse), "table", ["table", "rows", "md5"]))
    if left:
        raise click.exceptions.Exit(1)


_ADDRESS = click.argument("address")
_ONLY = click.argument("only", nargs=-1, metavar="[PATH]...")


@click.command()
@_ADDRESS
@_ONLY
@HOME
@click.option("--verify", is_flag=True, help="Read what is there, and mend what went bad there.")
def push(address: str, only: tuple[str, ...], home: Path, verify: bool) -> None:
    """Copy finished work to s3://bucket/folder, or any address that pyarrow opens.

    Commits, datasets, features, bridges and records: what is there is left alone. With PATHs, such
    as features/ID, what starts with them alone. What was planned and selected last comes with it,
    unless another home changed that there since (exit code 1).
    """
    from warehouse.exchange.copies import push as copy
    from warehouse.store import open_warehouse

    done = copy(open_warehouse(home), address, only, verify)
    _told(done, "foley pull, then foley push puts this home's there")
    if done.differing:
        raise click.exceptions.Exit(1)


@click.command()
@_ADDRESS
@_ONLY
@HOME
def pull(address: str, only: tuple[str, ...], home: Path) -> None:
    """Take over what `foley push` copied to an address, each file checked first."""
    from warehouse.exchange.copies import pull as copy
    from warehouse.exchange.object_store import Store, offered
    from warehouse.store import Warehouse

    offered(Store(address), only)  # before a home is made for nothing
    warehouse = Warehouse(home)
    done = copy(warehouse, address, only)
    warehouse.publish_if_possible()
    _told(done, "the next foley push puts this home's there")


def _told(done: Exchanged, advice: str) -> None:
    click.echo(f"{done.files} files, {done.bytes:,} bytes copied")
    for name in done.differing:
        click.echo(f"{name}: this home and another changed it; each stays as it is: {advice}")
    for name in done.damaged:
        click.echo(f"{name} is damaged: left out")
    if done.damaged:
        click.echo(
            "what is damaged in a home: foley verify --repair; what is damaged at an address: "
            "foley push --verify from a home that has it"
        )
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("what")
@HOME
def lineage(what: str, home: Path) -> None:
    """Show what WHAT came from: a sound, checkpoint, evaluation, feature set, dataset or clip."""
    from warehouse import trace

    show(trace(home, what))


@click.command()
@HOME
@click.option("--clips", type=COUNT, required=True, help="Clips to come.")
@click.option("--gpus", type=COUNT, default=1, show_default=True, help="Devices for models.")
@click.option("--workers", type=COUNT, default=1, show_default=True, help="Cores for the rest.")
@click.option("--gpu-price", type=PRICE, default=0.0, help="Price of a device's hour.")
@click.option("--worker-price", type=PRICE, default=0.0, help="Price of a core's hour.")
def plan(home: Path, clips: int, **resources: Any) -> None:
    """Hours, disk and cost of each stage for more clips, from the rates measured here."""
    from foley.cli.output import plan as summary
    from warehouse.catalog.capacity import Resources, capacity

    click.echo(summary(capacity(home, clips, Resources(**resources))))


@click.command()
@click.argument("what", type=click.Choice(["curation"]), default="curation", expose_value=False)
@HOME
@click.option(
    "--dataset", help="Dataset name or version.  [default: the newest of the warehouse's own]"
)
@click.option("--out", type=OUTPUT, help="File to write.  [default: in HOME/reports]")
@SEED
def report(home: Path, dataset: str | None, out: Path | None, seed: int) -> None:
    """Write a page of what a curation kept and dropped, and why, with clips to watch and hear."""
    from pipeline.curation.page import gather_page
    from pipeline.report import write_page
    from pipeline.report.curation import render_curation
    from warehouse.datasets.versions import page_of

    page = gather_page(home, dataset, seed)
    path = out or page_of(home, page.dataset["version"])
    write_page(path, render_curation(page))
    click.echo(str(path))
