"""The command that renders simulated worlds into a folder of clips."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from foley.cli.options import SEED
from warehouse.errors import FoleyError
from warehouse.files import make_folder, read_json, write_json

if TYPE_CHECKING:
    from pipeline.world import WorldCorpus

_COUNT = click.IntRange(0, 100_000)
MARK = ".render.json"  # of which corpus a folder is


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--level",
    type=click.IntRange(1, 3),
    default=1,
    show_default=True,
    help="1: one thing near the camera; 2: several that hit each other; 3: a moving camera too.",
)
@click.option("--clips", type=_COUNT, default=100, show_default=True, help="True clips, of 4 s.")
@click.option(
    "--flawed",
    type=_COUNT,
    default=0,
    help="Mis-dubbed and degraded ones, and some under speech or music, besides.",
)
@click.option("--pairs", type=_COUNT, default=0, help="Pairs of which one act differs, besides.")
@click.option("--long", type=_COUNT, default=0, help="Takes of 16 s, besides.")
@click.option("--duplicates", type=_COUNT, default=0, help="Clips once more, as other files.")
@SEED
def render(folder: Path, level: int, clips: int, seed: int, **besides: int) -> None:
    """Render simulated worlds, whose truth is known, into FOLDER, for `foley curate`.

    clips.jsonl says what happens in each. A command that was stopped goes on where it was.
    """
    from flows.display.progress_bars import bar, follow
    from foley.cli.launch import need_simulator
    from pipeline.procedural import write_corpus

    need_simulator()
    from pipeline.world import WorldCorpus

    if besides["duplicates"] > clips:
        raise FoleyError(f"--duplicates {besides['duplicates']} is more than --clips {clips}")
    corpus = WorldCorpus(clips, seed, bad=(), level=level, **besides)
    _claim(make_folder(folder.absolute()), corpus)
    with bar("render", unit="clip") as progress:
        rows = write_corpus(folder, corpus, len(os.sched_getaffinity(0)), follow(progress))
    impacts = sum(len(row["truth"]["impacts"]) for row in rows)
    click.echo(f"{folder}: {len(rows)} clips with {impacts} hits of level {level}, seed {seed}")


def _claim(folder: Path, corpus: "WorldCorpus") -> None:
    """Mark the folder as that of this corpus, before the first clip is there.

    Raises FoleyError where it holds anything but clips of this corpus.
    """
    from pipeline.procedural.corpus import LEDGER, read_ledger

    wanted = {clip.name: clip.clip.seed for clip in corpus.clips()}
    if not wanted:
        raise FoleyError("nothing to render: give --clips, --flawed, --pairs or --long")
    mark, own = folder / MARK, {"level": corpus.level, "seed": corpus.seed}
    ledger, marked = read_ledger(folder), read_json(mark) if mark.exists() else {}
    # a hidden file is what a render that was stopped has left
    found = sorted(path.name for path in folder.iterdir() if path.name[0] != ".")
    if found and marked and marked != own:
        before = "--level {level} --seed {seed}".format(**marked)
        raise FoleyError(f"{folder} is of another corpus: give {before}, or choose another folder")
    ours = {LEDGER, *(wanted if marked or ledger else ())}
    if others := [name for name in found if name not in ours]:
        raise FoleyError(f"{folder} holds other files, such as {others[0]}: choose another folder")
    for name, row in ledger.items():
        truth = row.get("truth") or {}
        if (wanted.get(name), corpus.level) != (truth.get("seed"), truth.get("level")):
            raise FoleyError(
                f"{folder} holds another corpus ({name} is not of it): choose another folder"
            )
    write_json(folder, mark, own)
