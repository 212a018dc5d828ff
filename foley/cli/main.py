"""The `foley` command. What is heavy is imported by the command that needs it."""

import atexit
import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn, cast

import click

from foley.cli.catalog import lineage, maintain, plan, pull, push, report, sql, status, verify
from foley.cli.generate import generate, join
from foley.cli.options import FlowCommand
from foley.cli.quiet import keep_interrupts
from foley.cli.render import render
from foley.cli.server import deploy, down, up
from foley.cli.sources import source
from foley.cli.studio import studio
from foley.cli.weights import models
from warehouse.errors import FoleyError, was_interrupted

FLOWS = (
    FlowCommand(
        "demo",
        "Render clips, curate them, train, evaluate and report: everything, in minutes.",
        home="foley-demo",
    ),
    FlowCommand(
        "download",
        "Fetch kinetics700, or the addresses of a .csv file, into FOLDER.",
        ("source", "[folder]"),
    ),
    FlowCommand(
        "curate",
        "Probe, score and select the videos in FOLDER, or what is new, and cache features.",
        ("[folder]",),
    ),
    FlowCommand("train", "Train the bridge on a dataset's cached features."),
    FlowCommand(
        "evaluate", "Score a checkpoint on its held-out clips, or systems on an evaluation set."
    ),
    FlowCommand(
        "ablate",
        """Train with one thing changed, and compare on the same held-out clips.

        pooling: on differently pooled video tokens (the paper's Table 1). curation: on what the
        dataset's policy kept, and on all that it judged and that decodes.
        """,
        ("what",),
    ),
)
SECTIONS: tuple[tuple[str, tuple[click.Command, ...]], ...] = (
    ("Sound for video", (generate, join, studio, FLOWS[0], models)),
    ("From clips to a trained bridge", (render, source, *FLOWS[1:])),
    ("The warehouse", (sql, status, report, maintain, verify, lineage, plan, push, pull)),
    ("A server with schedules and a UI", (up, down, deploy)),
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
    keep_interrupts()
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
    except FoleyError as error:
        click.echo(f"foley: {error}", err=True)
        code = 2
    except Exception as error:
        if not was_interrupted(error):
            raise
        code = _stopped()
    leave(code)


def _stopped() -> int:
    # a batch that ends after this has nobody to tell it to: no traces of its last lines
    logging.raiseExceptions = False
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
