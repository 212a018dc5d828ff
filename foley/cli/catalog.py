"""Commands that look at the warehouse and keep it in order. None of them needs Prefect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from foley.cli.options import HOME, SEED, home_folder
from warehouse.errors import FoleyError

if TYPE_CHECKING:
    from warehouse import Warehouse


def _open(home: Path | None) -> Warehouse:
    """The warehouse of a home folder that is there.

    FoleyError for one that is not, rather than making it.
    """
    from warehouse import Warehouse

    folder = home_folder(home)
    if not folder.is_dir():
        raise FoleyError(
            f"there is nothing in {folder} yet: run foley demo, or foley curate FOLDER, or give --home"
        )
    return Warehouse(folder)


@click.command()
@click.argument("query")
@HOME
@click.option(
    "--format", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Write the rows to this .csv, .json or .parquet file.",
)
@click.option(
    "--features",
    metavar="ID",
    help="Also give the arrays of this feature set, as the view `arrays`.",
)
def sql(
    query: str, home: Path | None, format: Any, output: Path | None, features: str | None
) -> None:
    """Run a read-only SQL query on the catalog, such as "select * from funnel"."""
    from warehouse import query as run
    from warehouse.catalog.rendering import render, write

    found = run(home_folder(home), query, features=features)
    if output is None:
        click.echo(render(found.column_names, found.to_pylist(), format))
    else:
        write(found, output)
        click.echo(f"{found.num_rows} rows in {output}")


@click.command()
@HOME
def status(home: Path | None) -> None:
    """Where the work stands: clips by stage, speed, time to finish, disk."""
    from foley.cli.output import status as summary
    from warehouse import status as find
    from warehouse.runs import mark_killed_runs

    wh = _open(home)
    mark_killed_runs(wh)
    click.echo(summary(find(wh)))


@click.command()
@HOME
@click.option("--quick", is_flag=True, help="Look at names and sizes only, do not read the files.")
def verify(home: Path | None, quick: bool) -> None:
    """Look for files that are not as they were written; exit code 1 if there are any."""
    from warehouse import verify as find

    problems = find(_open(home), deep=not quick)
    for problem in problems:
        click.echo(f"{problem.path}: {problem.what}")
    if problems:
        raise click.exceptions.Exit(1)
    click.echo("every file is as it was written")


@click.command()
@HOME
@click.option("--stage", required=True, help="The stage that failed them.")
@click.option(
    "--reason",
    metavar="LIKE",
    help="Only failures whose '<error>: <message>' is like this SQL pattern.",
)
def retry(stage: str, home: Path | None, reason: str | None) -> None:
    """Give failed clips all their attempts again; the next run takes them."""
    from warehouse import release

    wh = _open(home)
    released = release(wh, stage, reason)
    wh.publish()
    click.echo(f"{released} clips of {stage} will be tried again")


@click.command()
@HOME
@click.option("--stage", help="Only this stage.")
def compact(home: Path | None, stage: str | None) -> None:
    """Merge small commit files into large ones."""
    from warehouse import compact as merge

    wh = _open(home)
    done = merge(wh, stage)
    wh.publish()
    for merged in done:
        click.echo(f"{merged.stage}: {merged.files} files with {merged.rows} rows into one")
    if not done:
        click.echo("nothing to do: no stage has many small commits")


@click.command()
@HOME
@click.option("--delete", is_flag=True, help="Remove what was found; without it, only list.")
@click.option(
    "--unused",
    is_flag=True,
    help="Also results of settings, and pages of dataset versions, that are out of use.",
)
def gc(home: Path | None, delete: bool, unused: bool) -> None:
    """List, and with --delete remove, what dead runs left behind, and pages of dataset versions that are gone."""
    from warehouse import gc as collect

    found = collect(_open(home), dry_run=not delete, unused=unused)
    for garbage in found:
        click.echo(f"{garbage.bytes:>12}  {garbage.path}  ({garbage.why})")
    done = "removed" if delete else "could be removed with --delete"
    click.echo(
        f"{sum(garbage.bytes for garbage in found) / 1e6:.1f} MB in {len(found)} places {done}"
    )


@click.command()
@click.argument("what")
@HOME
def lineage(what: str, home: Path | None) -> None:
    """Show what WHAT (a sound, checkpoint, evaluation, feature set, dataset version or clip) came from."""
    from warehouse import trace
    from warehouse.catalog.rendering import render

    found = trace(home_folder(home), what)
    click.echo(render(found.column_names, found.to_pylist(), "table"))


@click.command()
@HOME
@click.option("--clips", type=click.IntRange(1), required=True, help="Clips to come.")
@click.option(
    "--gpus",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Devices, for stages with models.",
)
@click.option(
    "--workers", type=click.IntRange(1), default=1, show_default=True, help="Cores, for the others."
)
@click.option(
    "--gpu-price", type=click.FloatRange(0), default=0.0, help="Price of a device's hour."
)
@click.option(
    "--worker-price", type=click.FloatRange(0), default=0.0, help="Price of a core's hour."
)
def plan(home: Path | None, **options: Any) -> None:
    """Hours, disk and cost by stage for more clips, from the rates that this warehouse measured."""
    from foley.cli.output import plan as summary
    from warehouse.catalog.capacity import capacity

    click.echo(summary(capacity(home_folder(home), **options)))


@click.command()
@click.argument("what", type=click.Choice(["curation"]), expose_value=False)
@HOME
@click.option("--dataset", help="Dataset name or version.  [default: the newest]")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write.  [default: in HOME/reports]",
)
@SEED
def report(home: Path | None, dataset: str | None, out: Path | None, seed: int) -> None:
    """Write a page of what a curation kept and dropped, by which facts, with clips of every kind to watch and hear."""
    from pipeline.curation.page import gather_page
    from pipeline.report.curation import write_curation_page
    from warehouse.datasets.versions import page_of

    folder = home_folder(home)
    page = gather_page(folder, dataset, seed)
    path = out or page_of(folder, page.dataset["version"])
    write_curation_page(path, page)
    click.echo(str(path))


KEEPING: tuple[click.Command, ...] = (
    sql,
    status,
    report,
    verify,
    retry,
    compact,
    gc,
    lineage,
    plan,
)
