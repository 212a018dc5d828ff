"""The order in which Prefect's automations see events: PREFECT_SERVER_EVENTS_CAUSAL_ORDERING.

Prefect holds an event back until the one that it follows has come, for 15 minutes at most. What is
followed may never come: runs of a schedule are made without an event, and a server that was started
again knows of no event before. So a crashed run of a schedule was started again after 12 minutes.
An event that is merely out of order, which this is about, is so by milliseconds.
"""

from datetime import timedelta

from prefect.server.events.ordering import memory

memory.PRECEDING_EVENT_LOOKBACK = timedelta(seconds=10)  # type: ignore[reportPrivateImportUsage]
CausalOrdering = memory.CausalOrdering
