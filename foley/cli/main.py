"""The `foley` command. What is heavy is imported by the command that needs it."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, cast

import click

from flows.errors import is_user_error
from foley.cli.catalog import KEEPING
from foley.cli.factory import ablate, curate, download, train
from foley.cli.options import (
    FILE,
    FOLDER,
    HOME,
    PATH,
    PRESET,
    SEED,
    STEPS,
    WEIGHTS,
    WORKERS,
    check_device,
    checked,
    home_folder,
    named_folders,
)
from foley.cli.quiet import quietly
from foley.cli.server import OPERATING
from foley.cli.weights import models
from warehouse.errors import was_interrupted


@click.command()
@HOME
@click.option(
    "--clips",
    type=click.IntRange(64, 100_000),
    default=320,
    show_default=True,
    help="Good clips to render.",
)
@STEPS
@SEED
@WORKERS
def demo(home: Path | None, **options: Any) -> None:
    """Render clips, curate them, train, evaluate and report: everything, in minutes."""
    from foley.cli.launch import run_demo
    from foley.cli.output import demo as summary

    with quietly():
        result = run_demo(home_folder(home, "foley-demo"), options)
    click.echo(summary(result))


@click.command()
@HOME
@PRESET
@WEIGHTS
@click.option("--checkpoint", help="Id of a checkpoint.  [default: the newest]")
@click.option("--on", type=FOLDER, help="Evaluation set: a folder of videos; give --system too.")
@click.option(
    "--system",
    "systems",
    multiple=True,
    metavar="NAME=FOLDER",
    callback=named_folders,
    help="Sounds named as the videos; repeat.",
)
@click.option(
    "--reference", type=FOLDER, help="True sounds of the set.  [default: the videos' own]"
)
@click.option("--limit", type=click.IntRange(1), help="Only the first so many videos of the set.")
@click.option("--table", "table2", is_flag=True, help="All metrics of Table 2, on held-out clips.")
@click.option("--out", type=PATH, help="Folder for Table 2.  [default: in HOME/reports]")
@SEED
@WORKERS
def evaluate(home: Path | None, **options: Any) -> None:
    """Score a checkpoint on its held-out clips, or systems on an evaluation set."""
    from foley.cli.launch import run_flow
    from foley.cli.output import evaluated

    with quietly():
        result = run_flow("evaluate", home_folder(home), options)
    click.echo(evaluated(result))


@click.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--out", required=True, type=PATH, help="File to write; .wav, .flac: sound alone.")
@click.option(
    "--prompt",
    help="What is to be heard.  [default for a folder: as in its clips.csv, or the file's name]",
)
@click.option("--negative-prompt", help="What is not to be heard.")
@click.option(
    "--takes",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="Sounds a video, by seed.",
)
@click.option(
    "--format",
    type=click.Choice(["mp4", "mov", "mkv", "webm", "wav", "flac"]),
    help="Of files in a folder.",
)
@click.option("--cfg", type=click.FloatRange(0, 100), help="Guidance.  [default: the preset's]")
@click.option(
    "--video-cfg",
    type=click.FloatRange(0, 100),
    help="Guidance by video.  [default: as one with the text's]",
)
@click.option(
    "--steps", type=click.IntRange(1, 10_000), help="Sampling steps.  [default: the preset's]"
)
@click.option("--fast", is_flag=True, help="Fewer steps: the preset's fast_steps.")
@click.option(
    "--batch",
    type=click.IntRange(1, 1024),
    default=8,
    show_default=True,
    help="Sounds made at once.",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    callback=checked(check_device),
    help="auto, cpu, cuda or cuda:N.",
)
@click.option("--bridge", type=FILE, help="A bridge.safetensors.  [default: the preset's own]")
@HOME
@PRESET
@WEIGHTS
@SEED
def generate(source: Path, out: Path, home: Path | None, **options: Any) -> int:
    """Make sound for SOURCE: a video, a folder, or a CSV.

    For a video, OUT is the file to write; for a folder or a CSV, the folder to write to. A CSV has
    the columns video, prompt, seed, negative_prompt, out. Where a home folder is given, or there is
    one, every sound gets a row in its catalog.
    """
    from foley.cli.launch import run_dub

    if options["fast"] and options["steps"]:
        raise click.UsageError("--fast and --steps both say how many steps: give one")
    default = home_folder(None)
    record = home_folder(home) if home else default if default.is_dir() else None
    results = sys.stdout
    failed: list[bool] = []
    with quietly():
        for sound in run_dub(source, out, record, options):
            failed.append(sound.error is not None)
            if sound.error:
                click.echo(f"foley: {sound.error}", err=True)
            else:
                click.echo(f"{sound.request.out}: {sound.seconds:.2f} s of sound", file=results)
    return 2 if all(failed) else 1 if any(failed) else 0


SECTIONS: tuple[tuple[str, tuple[click.Command, ...]], ...] = (
    ("Sound for video", (generate, demo, models)),
    ("From clips to a trained bridge", (download, curate, train, evaluate, ablate)),
    ("The warehouse", KEEPING),
    ("A server with schedules and a UI", OPERATING),
)


class Sections(click.Group):
    """The commands of SECTIONS, under their headings."""

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002 (click gives it)
        formatter: click.HelpFormatter,
    ) -> None:
        """Write a list of commands for every section."""
        for title, commands in SECTIONS:
            with formatter.section(title):
                formatter.write_dl(
                    [(str(one.name), one.get_short_help_str(90)) for one in commands]
                )


@click.group(
    cls=Sections,
    commands=[command for _, commands in SECTIONS for command in commands],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="foley-control")
def cli() -> None:
    """Synchronised sound for video, and the data factory behind it."""


def main() -> None:
    """Entry point: a mistake is one line and exit code 2, Ctrl-C is exit code 130."""
    leave = _exit_with()
    try:
        code = int(cast("Callable[..., int | None]", cli)(standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = error.exit_code
    except click.ClickException as error:
        click.echo(f"foley: {' '.join(error.format_message().split())}", err=True)
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        code = _stopped()
    except BrokenPipeError:  # the reader has enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        if was_interrupted(error):
            code = _stopped()
        elif is_user_error(error):
            click.echo(f"foley: {' '.join(str(error).split())}", err=True)
            code = 2
        else:
            raise
    leave(code)


def _stopped() -> int:
    click.echo("stopped: run the same command again to go on", err=True)
    return 130


def _exit_with() -> Callable[[int], NoReturn]:
    """A way out that runs all exit handlers (this one, registered first, comes last), and no more.

    Prefect's daemon threads keep parts of DuckDB's extension module alive, which says so at length
    on standard error when the interpreter takes its modules apart.
    """
    codes: list[int] = []

    def last() -> None:
        if codes:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(codes[0])

    def leave(code: int) -> NoReturn:
        codes.append(code)
        sys.exit(code)

    atexit.register(last)
    return leave


if __name__ == "__main__":
    main()
