"""Every command of the pages for operators is run.

Where it starts or stops the factory, it is taken as written.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from foley.cli.main import cli
from tests.foley.commands import ROOT
from tests.operations.factory import Factory, foley

PAGES = [ROOT / "docs" / "operating.md"]
#: Run by the fixture `factory`, with a folder and a port of its own, and by
#: test_redeploying.py.
ELSEWHERE = {"up", "down", "deploy"}


def commands(page: Path) -> list[list[str]]:
    """Words of every line in the page's code blocks, without comments."""
    blocks = re.findall(r"^```\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [
        shlex.split(line, comments=True)
        for block in blocks
        for line in block.splitlines()
        if line.strip()
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_hold_commands_that_there_are(page: Path) -> None:
    found = commands(page)
    assert found
    for program, name, *arguments in found:
        assert program == "foley"
        command = cli.commands[name]
        if "--help" not in arguments:
            command.make_context(name, list(arguments))  # parses the options, runs nothing


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_work(page: Path, factory: Factory, curated: str) -> None:
    for _, name, *arguments in commands(page):
        if name not in ELSEWHERE:
            done = foley(name, *arguments, FOLEY_HOME=str(factory.home))
            assert done.returncode == 0, (name, done.stderr)
            assert done.stdout
