"""Columns in which nova keeps JSON, with something else in them: a plan refuses, an action fails, nothing is a fault of ours."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from hypothesis import given
from hypothesis import strategies as st

from cellmove.checks import arrival_checks, flavor
from cellmove.core.errors import CallFailed
from cellmove.db import engines, shapes, state
from cellmove.db.records import _adapted
from cellmove.db.tables import CellDatabase
from cellmove.hosts import conductor, scheduler
from cellmove.hosts.bus import Bus

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
FLAVOR = {
    "id": 1,
    "flavorid": "f",
    "name": "m1",
    "vcpus": 1,
    "memory_mb": 512,
    "root_gb": 1,
    "ephemeral_gb": 0,
    "swap": 0,
}

BROKEN = (
    None, "", "x", "{", "null", "5", "[]", '"x"', "[1]", "{}", '{"cur": null}', '{"cur": 5}', '{"cur": {}}', '{"cur": []}', "1e999", "NaN",
    '{"cur": {"nova_object.data": null}}', '{"cur": {"nova_object.data": 5}}', '{"cur": {"nova_object.data": {}}}', "[" * 100000,
    *(json.dumps({"cur": {"nova_object.data": {**FLAVOR, name: "x"}}}) for name in ("id", "vcpus", "memory_mb", "root_gb", "swap")),
    json.dumps({"cur": {"nova_object.data": {**FLAVOR, "vcpus": None}}}),
    json.dumps({"cur": {"nova_object.data": {**FLAVOR, "extra_specs": 5}}}),
    json.dumps({"cur": {"nova_object.data": {**FLAVOR, "extra_specs": "abc"}}}),
    '{"cur": {"nova_object.data": {"id": 1e999, "flavorid": "f", "name": "m1", "vcpus": 1, "memory_mb": 1, "root_gb": 1}}}',
)  # fmt: skip


@pytest.mark.parametrize("text", BROKEN, ids=lambda text: str(text)[:60])
def test_a_flavor_that_cannot_be_read_is_none(text: str | None) -> None:
    assert shapes.current_flavor(text) is None


def test_extra_specs_are_words() -> None:
    found = shapes.current_flavor(
        json.dumps({"cur": {"nova_object.data": {**FLAVOR, "extra_specs": {"resources:X": 5}}}})
    )
    assert found is not None
    assert found.extra_specs == {"resources:X": "5"}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (None, 0),
        ("", 0),
        ("null", 0),
        ("[]", 0),
        ('[{"count": 1}]', 1),
        ("x", 1),
        ("5", 1),
        ("{}", 1),
        ("[5, null]", 2),
        ('"x"', 1),
    ],
)
def test_pci_requests_that_cannot_be_read_are_not_overlooked(text: str | None, count: int) -> None:
    found = shapes._requests(text)
    assert len(found) == count
    assert all(isinstance(each, dict) for each in found)


@pytest.fixture
def database(tmp_path: Path) -> CellDatabase:
    engine = engines.open_database(f"sqlite:///{tmp_path}/cell.db", connect_timeout=1, name="the database of cell7")
    with engine.begin() as connection:
        connection.execute(
            sqlalchemy.text(
                "CREATE TABLE request_specs (id INTEGER PRIMARY KEY, instance_uuid TEXT, spec TEXT, updated_at TEXT)"
            )
        )
        connection.execute(
            sqlalchemy.text(
                "CREATE TABLE instance_extra (id INTEGER PRIMARY KEY, instance_uuid TEXT, deleted INTEGER, flavor TEXT, updated_at TEXT)"
            )
        )
    metadata = sqlalchemy.MetaData()
    metadata.reflect(engine)
    return CellDatabase("cell7", engine, dict(metadata.tables))


NO_OBJECTS = ("", "x", "{", "null", "5", "[]", '"x"', "[1]", "NaN", "1e999", "true")
NO_SPECS = (*NO_OBJECTS, "{}", '{"nova_object.data": null}', '{"nova_object.data": 5}', '{"nova_object.data": []}')


@pytest.mark.parametrize("text", NO_SPECS)
def test_a_request_spec_that_cannot_be_read_is_named(database: CellDatabase, text: str) -> None:
    with database.engine.begin() as connection:
        connection.execute(
            sqlalchemy.text("INSERT INTO request_specs (instance_uuid, spec) VALUES ('s', :t)"), {"t": text}
        )
    with pytest.raises(CallFailed, match=r"request_specs\.spec") as caught:
        state.read_request_spec(database.engine, "s")
    assert caught.value.kind == "unreadable"
    assert shapes.object_fields(shapes.parse_json(text)) == {}


@pytest.mark.parametrize("text", NO_OBJECTS)
def test_a_flavor_column_that_cannot_be_read_ends_an_action_and_not_a_command(
    database: CellDatabase, text: str
) -> None:
    with database.engine.begin() as connection:
        connection.execute(
            sqlalchemy.text("INSERT INTO instance_extra (instance_uuid, deleted, flavor) VALUES ('s', 0, :t)"),
            {"t": text},
        )
        with pytest.raises(CallFailed, match=r"instance_extra\.flavor"):
            state.set_flavors(connection, database, "s", old=None, new=None, now=NOW)
    with pytest.raises(CallFailed, match=r"instance_extra\.flavor"):
        state.current_flavor({"flavor": text})
    with pytest.raises(CallFailed, match=r"instance_extra\.flavor"):
        _adapted("instance_extra", {"flavor": text}, {})


@pytest.mark.parametrize(
    "text", [*BROKEN, '{"cur": {"nova_object.data": {"flavorid": "f"}}}'], ids=lambda text: str(text)[:60]
)
def test_verification_reads_any_flavor_and_any_address_cache(text: str | None) -> None:
    assert isinstance(arrival_checks._flavors({"flavor": text}), dict) or len(str(text)) > 1000
    assert arrival_checks._addresses({"network_info": text}) == {}


CACHES = (
    '[{"id": "p"}]', '[{"id": "p", "network": null}]', '[{"id": "p", "network": {"subnets": 5}}]', '[{"id": "p", "network": {"subnets": [{}]}}]',
    '[{"id": "p", "network": {"subnets": [{"ips": [{}]}]}}]', '[{"id": "p", "network": {"subnets": [{"ips": [5]}]}}]', "[null]",
)  # fmt: skip


@pytest.mark.parametrize("text", CACHES)
def test_an_address_cache_with_parts_missing_says_nothing_of_that_port(text: str) -> None:
    good = '{"id": "q", "network": {"subnets": [{"ips": [{"address": "10.0.0.1"}]}]}}'
    assert arrival_checks._addresses({"network_info": text[:-1] + f", {good}]"}) == {"q": {"10.0.0.1"}}


@pytest.mark.parametrize("value", [None, "", "None", "x", "1.5", "\N{SUPERSCRIPT TWO}", "-", "0x10", "1e3", "inf"])
def test_a_number_among_image_properties_that_is_none_counts_as_0(value: str | None) -> None:
    assert flavor._number(value) == 0


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(values)
def test_any_answer_of_a_conductor_or_scheduler_is_understood_or_a_failure(value: Any) -> None:
    for read in (conductor.data, scheduler._selections):
        try:
            read(value)
        except CallFailed as error:
            assert error.kind in ("answer", "NoValidHost")  # noqa: PT017


def test_an_object_that_is_none_is_named_by_its_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conductor, "call", lambda *_arguments, **_options: ["x"])
    bus = Bus("cell7", "", None, 1, 1)  # type: ignore[arg-type]
    with pytest.raises(CallFailed, match=r"Instance\.get_by_uuid on the bus of cell7"):
        conductor.instance(bus, {}, "s")


@pytest.mark.parametrize("answer", [None, [], [[]], 5, "x", [5], [[5]], [[{}]], [[{"nova_object.data": {}}]], {"x": 1}, [["x"]],
                                    [[{"nova_object.data": {"service_host": "h", "nodename": "n", "cell_uuid": "c", "allocation_request": "{"}}]]])  # fmt: skip
def test_a_scheduler_s_answer_that_is_not_understood_is_a_failure(answer: Any) -> None:
    with pytest.raises(CallFailed):
        scheduler._selections(answer)
