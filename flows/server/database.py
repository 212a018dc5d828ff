"""Prefect's server on SQLite, without the two ways in which its database is "locked".

On PostgreSQL, which several hosts need, nothing of this is at work.
"""

import gc
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.database.dependencies import set_database_config
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

_SECONDS = 5.0


class WritersInTurn(AioSqliteConfiguration):
    """Transactions take the lock to write when they begin, and wait for it up to 60 s.

    Prefect's take it at their first write. Where another one wrote since their first read, SQLite
    refuses that at once, without waiting. Events that fail so four times are dropped, and with them
    what an automation does about them (seen with Prefect 3.8).
    """

    @asynccontextmanager
    async def begin_transaction(
        self,
        session: AsyncSession,
        with_for_update: bool = False,  # noqa: ARG002 - as if it were always true
    ) -> AsyncGenerator[AsyncSessionTransaction]:
        """As Prefect's, whether it asks for the lock or not."""
        async with super().begin_transaction(session, with_for_update=True) as transaction:
            yield transaction


def use_sqlite_in_turn() -> None:
    """Have Prefect's server use SQLite so, if it uses it."""
    url = PREFECT_API_DATABASE_CONNECTION_URL.value()
    if url and url.startswith("sqlite"):
        set_database_config(WritersInTurn(url))


@contextmanager
def garbage_aside() -> Generator[None]:
    """Collect garbage in a thread of its own, and not where memory is asked for.

    A collection ends what it comes upon. To end a cursor of SQLite waits for its connection, and a
    connection that waits for the lock is busy for up to 60 s. In the thread of the event loop this
    stopped the whole server, with the transaction that held the lock, until others gave up (seen
    with Prefect 3.8: a request that fails leaves a cursor behind).

    What is there by now, modules mostly, is not looked at again.
    """
    ended = threading.Event()

    def collect() -> None:
        while not ended.wait(_SECONDS):
            gc.collect()

    gc.collect()
    gc.freeze()
    gc.disable()
    threading.Thread(target=collect, name="garbage", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        gc.enable()
        gc.unfreeze()
