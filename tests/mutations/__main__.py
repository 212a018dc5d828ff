"""Would the tests notice? Makes plausible mistakes in load-bearing files, one at a time.

    uv run python -m tests.mutations [ROOM ...] [--sample 20] [--own N] [--seed 0] [--like TEXT]
                                     [--quick]

Each mistake is made in a copy of the tree, the tests of its room run there, and what they did not
notice is printed with its line. A room's tests first have to pass without a mistake. Mistakes are
those of cosmic-ray's operators, a sample drawn by seed, and the list of our own in
`rooms/ROOM.toml`, which no operator makes: a call left out, one noise for two purposes. Those that
change nothing a test could see are listed there as equivalent.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator

from tests.mutations.forks import ROOT, load_libraries, run_tests

#: By room: its `files` and `tests`, `mistakes` of our own, and those that are `equivalent`.
ROOMS: dict[str, Any] = {
    file.stem: tomllib.loads(file.read_text())
    for file in sorted((Path(__file__).parent / "rooms").glob("*.toml"))
}
#: Who would change a value is stopped by the type checker, not by a test.
NOT_FOR_TESTS = "@dataclass(frozen=False)"
OPERATORS = (
    "AddNot",
    "NumberReplacer",
    "RemoveDecorator",
    "ReplaceAndWithOr",
    "ReplaceBinaryOperator_Add_Sub",
    "ReplaceBinaryOperator_Div_Mul",
    "ReplaceBinaryOperator_FloorDiv_Mul",
    "ReplaceBinaryOperator_Mod_Add",
    "ReplaceBinaryOperator_Mul_Add",
    "ReplaceBinaryOperator_Sub_Add",
    "ReplaceComparisonOperator_Eq_NotEq",
    "ReplaceComparisonOperator_Gt_GtE",
    "ReplaceComparisonOperator_GtE_Gt",
    "ReplaceComparisonOperator_Lt_LtE",
    "ReplaceComparisonOperator_LtE_Lt",
    "ReplaceFalseWithTrue",
    "ReplaceOrWithAnd",
    "ReplaceTrueWithFalse",
    "ReplaceUnaryOperator_Delete_Not",
    "ReplaceUnaryOperator_Delete_USub",
    "ZeroIterationForLoop",
)


@dataclass(frozen=True)
class Mistake:
    """A file with a mistake in it, and what is wrong."""

    file: str
    line: int
    what: str
    code: str


def drawn_mistakes(file: str) -> list[Mistake]:
    """Every mistake that the operators can make in a file, but for those in its texts."""
    source = (ROOT / file).read_text()
    found: list[Mistake] = []
    for name in OPERATORS:
        operator: Any = get_operator(f"core/{name}")()
        for occurrence in count():
            code = mutate_code(source, operator, occurrence)
            if code is None:
                break
            found.append(Mistake(file, _first_difference(source, code), name, code))
    return found


def own_mistakes(room: str) -> list[Mistake]:
    """The mistakes of a room's list. Raises ValueError for a text that is not there once."""
    found: list[Mistake] = []
    for entry in ROOMS[room].get("mistakes", []):
        source = (ROOT / entry["file"]).read_text()
        if source.count(entry["old"]) != 1:
            raise ValueError(f"{entry['file']}: not there once: {entry['old']!r}")
        code = source.replace(entry["old"], entry["new"])
        line = _first_difference(source, code)
        found.append(Mistake(entry["file"], line, entry["what"], code))
    return found


def _first_difference(old: str, new: str) -> int:
    pairs = zip(old.splitlines(), new.splitlines(), strict=False)
    return next((number for number, (a, b) in enumerate(pairs, 1) if a != b), 1)


def is_equivalent(room: str, mistake: Mistake) -> bool:
    """Whether the room's list says of this line that such a mistake changes nothing to be seen."""
    line = mistake.code.splitlines()[mistake.line - 1].strip()
    listed = [(entry["file"], entry["becomes"]) for entry in ROOMS[room].get("equivalent", [])]
    return line == NOT_FOR_TESTS or (mistake.file, line) in listed


@dataclass
class Tree:
    """A copy of the files that git knows or would add, to make mistakes in."""

    folder: Path
    stamp: int = int(time.time())  # of the file that was written last, in seconds

    def __post_init__(self) -> None:
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        for name in filter(None, done.stdout.split("\0")):
            if (ROOT / name).is_file():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.folder / name)

    def seconds(self, tests: Sequence[str]) -> float:
        """How long the tests take without a mistake. Raises RuntimeError where they fail."""
        begun = time.monotonic()
        if code := run_tests(self.folder, tests, None):
            raise RuntimeError(f"without a mistake pytest ends with {code}: {' '.join(tests)}")
        return time.monotonic() - begun

    def is_noticed(self, mistake: Mistake, tests: Sequence[str], seconds: float) -> bool:
        """Whether the tests fail, or take longer than `seconds`, with the mistake in the tree."""
        path = self.folder / mistake.file
        right = path.read_text()
        self._write(path, mistake.code)
        try:
            return run_tests(self.folder, tests, seconds, path.stem) != 0
        finally:
            self._write(path, right)

    def _write(self, path: Path, code: str) -> None:
        path.write_text(code)
        self.stamp += 1  # what Python compiled of a file of another second it compiles anew
        os.utime(path, (self.stamp, self.stamp))


@dataclass(frozen=True)
class Choice:
    """How many mistakes are made: drawn ones, and of our own (None: all)."""

    sample: int = 20
    own: int | None = None
    seed: int = 0
    like: str = ""  # in file or text


def mistakes_of(room: str, choice: Choice) -> list[Mistake]:
    """Our own and the drawn ones, but for those that change nothing."""
    sample, seed, own = choice.sample, choice.seed, own_mistakes(room)
    if choice.own is not None:
        own = random.Random(seed).sample(own, min(choice.own, len(own)))
    files = ROOMS[room]["files"] if sample else ()  # to make every mistake takes a minute a room
    drawn = [mistake for file in files for mistake in drawn_mistakes(file)]
    mistakes = own + random.Random(seed).sample(drawn, min(sample, len(drawn)))
    like = [m for m in mistakes if choice.like in f"{m.file} {m.what}"]
    return [mistake for mistake in like if not is_equivalent(room, mistake)]


def measure(room: str, mistakes: Sequence[Mistake], tree: Tree, quick: bool = False) -> int:
    """Print what is not noticed, by `quick` tests alone if so asked; how many are."""
    tests, began = [*(["-m", "not slow"] if quick else ()), *ROOMS[room]["tests"]], time.monotonic()
    print(f"{room}: {len(mistakes)} mistakes; first its tests without one", flush=True)
    limit = 60 + 5 * tree.seconds(tests)  # a mistake may make a test wait for ever
    noticed = 0
    for mistake in mistakes:
        if tree.is_noticed(mistake, tests, limit):
            noticed += 1
        else:
            line = mistake.code.splitlines()[mistake.line - 1].strip()
            print(
                f"  not noticed: {mistake.file}:{mistake.line} {mistake.what}: {line}", flush=True
            )
    took = time.monotonic() - began
    print(f"{room}: {noticed} of {len(mistakes)} noticed, in {took:.0f} s", flush=True)
    return noticed


def main() -> int:
    """Measure the rooms that are named, or all of them; 1 where fewer than 85% are noticed."""
    parser = argparse.ArgumentParser(
        "python -m tests.mutations", description=(__doc__ or "").partition("\n")[0]
    )
    rooms = "files and the tests that are to notice; all where none is named: "
    parser.add_argument("rooms", nargs="*", metavar="ROOM", help=rooms + ", ".join(ROOMS))
    parser.add_argument("--sample", type=int, default=20, help="drawn mistakes a room (20)")
    parser.add_argument("--own", type=int, help="mistakes of our own a room (all)")
    parser.add_argument("--seed", type=int, default=0, help="by which they are drawn (0)")
    parser.add_argument("--like", default="", help="only mistakes with this in file or text")
    parser.add_argument("--quick", action="store_true", help="without the tests that are slow")
    options = parser.parse_args()
    choice = Choice(options.sample, options.own, options.seed, options.like)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # nothing is left
    load_libraries()
    noticed = made = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(Path(folder))
        for room in options.rooms or ROOMS:
            mistakes = mistakes_of(room, choice)
            made += len(mistakes)
            noticed += measure(room, mistakes, tree, options.quick) if mistakes else 0
    print(f"all: {noticed} of {made} noticed ({noticed / max(1, made):.0%})")
    return 0 if noticed >= 0.85 * made else 1


if __name__ == "__main__":
    sys.exit(main())
