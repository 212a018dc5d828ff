"""The commands that make sound for videos of one's own, and one film of them."""

import sys
from pathlib import Path

import click
from click.core import ParameterSource

from foley.cli.options import FlowCommand
from foley.cli.quiet import ended_by_sigterm, quietly


class GenerateCommand(FlowCommand):
    """Makes the sounds here, without a server; prints each as it is made.

    The exit code is 0 if all were made, 1 if some were, 2 if none was.
    """

    def _run(self, home: Path, **options: object) -> int:
        from foley.cli.launch import run_dub

        source_of = click.get_current_context().get_parameter_source
        given = source_of("home") is not ParameterSource.DEFAULT
        results = sys.stdout
        failed, told = list[bool](), set[str]()
        with quietly(), ended_by_sigterm():
            for sound in run_dub(home, given or home.is_dir(), options):
                failed.append(sound.error is not None)
                for line in (*sound.notes, *([sound.error] if sound.error else ())):
                    if line not in told:  # an unreadable video is said once for all takes
                        click.echo(f"foley: {line}", err=True)
                    told.add(line)
                if not sound.error:
                    before = ", there already" if sound.before else ""
                    said = f"{sound.request.out}: {sound.seconds:.2f} s of sound{before}"
                    click.echo(said, file=results)
        return 2 if all(failed) else 1 if any(failed) else 0


generate = GenerateCommand(
    "generate",
    """Make sound for VIDEO: a video, a folder of them, or a CSV; or for a text alone.

    A CSV has the columns video, prompt, seed, negative_prompt, cues, out. Where a home folder is
    given, or there is one, every sound gets a row in its catalog. A command that was stopped goes
    on where it was when it is given again.
    """,
    ("[video]",),
)


@click.command()
@click.argument(
    "videos", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The film: .mov or .mkv (sound as PCM of 24 bits), or .mp4.",
)
def join(videos: tuple[Path, ...], out: Path) -> None:
    """Join VIDEOS, in this order, to one film, with a cut list for editors (.edl) beside it.

    Size and frame rate are those of the first. Pictures are encoded anew; sounds start with them.
    """
    from pipeline.generation.joining import RATE, join

    with ended_by_sigterm():
        shots = join(videos, out)
    what = "1 video" if len(shots) == 1 else f"{len(shots)} videos"
    click.echo(f"{out}: {what}, {shots[-1].start + shots[-1].frames} pictures, "
               f"sound at {RATE} Hz; {out.with_suffix('.edl')}")  # fmt: skip
