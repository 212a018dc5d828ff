"""What a file and a person both change, merged; tests/operations has it on a server."""

from types import SimpleNamespace
from typing import Any

import pytest

from flows.server.deployments import _set_schedules, merged, schedule_changes

Values = dict[str, Any]


@pytest.mark.parametrize(
    ("last", "now", "there", "wanted"),
    [
        ({"a": 1}, {"a": 1}, {"a": 2}, {"a": 2}),  # a person's change
        ({"a": 1}, {"a": 3}, {"a": 1}, {"a": 3}),  # the file's
        ({"a": 1}, {"a": 3}, {"a": 2}, {"a": 3}),  # both: the file, which was changed later
        ({"a": 1}, {"a": 1}, {}, {}),  # a person took it away
        ({"a": 1}, {}, {"a": 1, "b": 2}, {"b": 2}),  # the file did
        ({"a": 1}, {}, {"a": 2}, {"a": 2}),  # and a person had set it
        ({}, {"p": {"a": 1}}, {"p": {"b": 2}}, {"p": {"a": 1, "b": 2}}),  # never noted before
        ({"p": {"a": 1}}, {"p": {"a": 2}}, {"p": {"a": 1, "b": 0}}, {"p": {"a": 2, "b": 0}}),
    ],
)
def test_the_file_changes_what_it_changes_and_a_person_the_rest(
    last: Values, now: Values, there: Values, wanted: Values
) -> None:
    assert merged(last, now, there) == wanted


@pytest.mark.parametrize(
    ("changed", "sent"),
    [
        ({}, {}),  # what a person set of it stays
        ({"active": False}, {"active": False}),
        ({"cron": "0 3 * * *"}, {"cron": "0 3 * * *", "timezone": "UTC"}),
        ({"timezone": "Asia/Tokyo"}, {"cron": "0 2 * * *", "timezone": "Asia/Tokyo"}),
    ],
)
def test_of_a_schedule_only_what_the_file_changed_is_sent(changed: Values, sent: Values) -> None:
    last = {"slug": "nightly", "cron": "0 2 * * *", "timezone": "UTC", "active": True}
    found = schedule_changes(last, last | changed)
    cron = found.pop("schedule", None)
    found |= cron.model_dump(include={"cron", "timezone"}) if cron else {}
    assert found == sent


@pytest.mark.parametrize(
    ("last", "present", "done"),
    [
        ({}, (), ["create"]),
        ({"nightly"}, (), []),  # a person removed it
        ({"nightly"}, ("nightly",), []),
        ({"nightly", "hourly"}, ("nightly", "hourly"), ["delete"]),  # the file did
    ],
)
def test_a_schedule_that_a_person_removed_stays_away(
    last: set[str], present: tuple[str, ...], done: list[str]
) -> None:
    said = {"cron": "0 2 * * *", "timezone": "UTC", "active": True}
    told: list[str] = []
    client: Any = SimpleNamespace(
        create_deployment_schedules=lambda *_, **__: told.append("create"),
        update_deployment_schedule=lambda *_, **__: told.append("update"),
        delete_deployment_schedule=lambda *_, **__: told.append("delete"),
    )
    there: Any = SimpleNamespace(
        id=1, schedules=[SimpleNamespace(slug=slug, id=slug) for slug in present]
    )
    _set_schedules(client, there, dict.fromkeys(last, said), {"nightly": said})
    assert told == done
