"""What README tells a library user to type gives a command and a library outside the clone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
INSTALL = "uv pip install --config-file uv.toml ."

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("uv") is None, reason="uv is not on the path"),
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment into which the README's line has installed the project."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    subprocess.run(["uv", "venv", "-q", "--python", sys.executable, folder], check=True)
    variables = os.environ | {"VIRTUAL_ENV": str(folder)}
    variables.pop("UV_PROJECT_ENVIRONMENT", None)
    done = subprocess.run(
        INSTALL.split(), cwd=ROOT, env=variables, capture_output=True, text=True, check=False
    )
    if done.returncode and "error sending request" in done.stderr:
        pytest.skip("no network")
    assert done.returncode == 0, done.stderr
    return folder


def test_the_readme_names_that_line() -> None:
    assert INSTALL in (ROOT / "README.md").read_text()


def test_the_command_and_the_library_work_from_anywhere(environment: Path, tmp_path: Path) -> None:
    def run(*words: str) -> str:
        variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        done = subprocess.run(
            [environment / "bin" / words[0], *words[1:]],
            cwd=tmp_path,
            env=variables,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    assert "generate" in run("foley", "--help")
    assert "backbone" in run("foley", "models", "check", "--preset", "toy")
    place = run("python", "-c", "import foley; print(foley.__file__)").strip()
    assert Path(place).is_relative_to(environment)
