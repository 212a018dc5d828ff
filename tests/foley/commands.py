"""The `foley` command in a process of its own, as a person runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def environment(**changes: str | None) -> dict[str, str]:
    """The environment without a FOLEY_HOME, and with some changes; None removes a variable."""
    values = os.environ | {"FOLEY_HOME": None} | changes
    return {name: value for name, value in values.items() if value is not None}


def foley(*arguments: str | Path, **changes: str | None) -> subprocess.CompletedProcess[str]:
    """Run `foley` to its end."""
    command = [sys.executable, "-m", "foley.cli.main", *map(str, arguments)]
    variables = environment(**changes)
    return subprocess.run(
        command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=1200, check=False
    )


def one_line_error(done: subprocess.CompletedProcess[str]) -> str:
    """The message of a command that ended as a person's mistake does.

    Exit code 2, one line, nothing on stdout; before it there may be lines of steps.
    """
    assert done.returncode == 2, done
    assert done.stdout == "", done
    lines = other_than_steps(done)
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("foley: ")
    return lines[0].removeprefix("foley: ")


def other_than_steps(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Lines on standard error but for those of steps, and of the bridge that was chosen."""
    step = r"\d\d:\d\d:\d\d ([\w -]+: (started|\d+ \w+ in|stopped at)|bridge \w+: )"
    return [line for line in done.stderr.strip().splitlines() if not re.match(step, line)]
