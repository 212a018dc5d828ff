"""Prefect's database on SQLite, with real connections that want to write at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

#: Two transactions of Prefect's: the first reads, the second writes if it can, the first writes.
BOTH_WRITE = """
import asyncio
import sqlalchemy as sa
from prefect.server.database import provide_database_interface
from flows.server.database import use_sqlite_in_turn

use_sqlite_in_turn()
names = sa.text("INSERT INTO flow (id, name, tags, created, updated) VALUES (:n, :n, '[]', 0, 0)")


async def main():
    db = provide_database_interface()
    await db.create_db()

    async def second():
        async with db.session_context(begin_transaction=True) as session:
            await session.execute(names, {"n": "second"})

    async with db.session_context(begin_transaction=True) as session:
        await session.execute(sa.text("SELECT count(*) FROM flow"))
        other = asyncio.create_task(second())
        await asyncio.wait([other], timeout=2)  # until it is done, if nothing holds it up
        await session.execute(names, {"n": "first"})
    await other
    async with db.session_context() as session:
        found = await session.execute(sa.text("SELECT name FROM flow ORDER BY rowid"))
        print(found.scalars().all())


asyncio.run(main())
"""

#: One connection holds the lock, one waits for it in a thread, and left a cursor behind that only a
#: collection of garbage ends. The main thread asks for memory, and then gives the lock back.
GARBAGE = """
import contextlib, sqlite3, sys, threading
from flows.server.database import garbage_aside

holder = sqlite3.connect(sys.argv[1])
holder.executescript("PRAGMA journal_mode = WAL; CREATE TABLE t (x);")
waiting = sqlite3.connect(
    sys.argv[1], timeout=10, check_same_thread=False, isolation_level=None
)
holder.execute("BEGIN IMMEDIATE")
cursor = waiting.execute("VALUES (1), (2)")  # not read to its end, and needs no lock
with garbage_aside() if sys.argv[2] == "aside" else contextlib.nullcontext():
    begun = threading.Event()
    waiting.set_trace_callback(lambda _: begun.set())  # the connection is busy from then on

    def write():
        # what the error says may be gone before it is asked: the main thread uses the same one
        with contextlib.suppress(sqlite3.OperationalError):
            waiting.execute("INSERT INTO t VALUES (3)")

    thread = threading.Thread(target=write)
    thread.start()
    begun.wait()
    cycle = [cursor]
    cycle.append(cycle)
    del cycle, cursor
    kept = [[] for _ in range(1_000_000)]  # more than is allowed before garbage is looked for
    holder.commit()
    thread.join()
print("written" if holder.execute("SELECT * FROM t").fetchall() else "given up")
"""


def printed(code: str, home: Path, *arguments: str) -> str:
    url = f"sqlite+aiosqlite:///{home}/prefect.db"
    own = {"PREFECT_HOME": str(home), "PREFECT_SERVER_DATABASE_CONNECTION_URL": url}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={name: v for name, v in os.environ.items() if name != "PREFECT_API_URL"} | own,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_who_reads_and_then_writes_is_not_refused(tmp_path: Path) -> None:
    assert printed(BOTH_WRITE, tmp_path) == "['first', 'second']"


@pytest.mark.parametrize(("way", "result"), [("aside", "written"), ("usual", "given up")])
def test_garbage_of_a_connection_that_waits_stops_nobody(
    tmp_path: Path, way: str, result: str
) -> None:
    """The usual way is here to show that the trouble is there."""
    assert printed(GARBAGE, tmp_path, str(tmp_path / "t.db"), way) == result
