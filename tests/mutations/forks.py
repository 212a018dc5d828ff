"""Runs of tests in another tree, by a process that has imported all that is slow to import.

Third-party libraries alone are imported before a process divides: what is measured is read anew.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARIES = (
    "accelerate", "anyio._backends._asyncio", "av", "duckdb", "hypothesis.strategies",
    "mir_eval.util", "numpy", "psutil", "pyarrow.parquet", "pydantic.fields", "requests",
    "safetensors.torch", "scipy.ndimage", "scipy.signal", "torch", "torch._dynamo.utils",
    "torchaudio", "transformers", "xdist.scheduler",
)  # fmt: skip


class LikelyOnesFirst:
    """A plugin of pytest: quick tests first, of these the file that has the mistaken one's name."""

    def __init__(self, stem: str) -> None:
        self.stem = stem

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Called by pytest; the order is kept among others."""
        items.sort(
            key=lambda item: (
                item.get_closest_marker("slow") is not None,
                self.stem not in item.path.stem,
            )
        )


def load_libraries() -> None:
    """Import what tests import; on one thread, since threads do not outlive a fork."""
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # no test has to look through what they hold


def run_tests(tree: Path, tests: Sequence[str], seconds: float | None, stem: str = "") -> int:
    """pytest's exit code in that tree; -9 where it took longer than `seconds`.

    `stem` is the name of the file with a mistake, without its ending.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        process = get_context("fork").Process(
            target=_pytest_there, args=(tree, tests, scratch, stem)
        )
        process.start()
        try:
            process.join(seconds)
        finally:
            with suppress(ProcessLookupError):  # it, if it still runs, and all that it started
                os.killpg(process.pid or 0, signal.SIGKILL)
            process.join()
        return process.exitcode or 0


def _pytest_there(tree: Path, tests: Sequence[str], scratch: str, stem: str) -> None:
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
        del sys.modules[name]
    sys.modules["__main__"] = importlib.import_module("pytest.__main__")  # for spawned processes
    sys.path[:] = [str(tree), *(path for path in sys.path if Path(path).resolve() != ROOT)]
    os.chdir(tree)
    os.environ |= {"PYTHONPATH": str(tree), "TMPDIR": scratch}
    tempfile.tempdir = None
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    # how long a test may take here is for `seconds` to say: the machine may have much to do
    options = ["-x", "-n0", "-q", "-p", "no:cacheprovider", "--timeout=0"]
    sys.exit(pytest.main([*options, *tests], plugins=[LikelyOnesFirst(stem)]))
