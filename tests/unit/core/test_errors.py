"""Other programs' words never carry a secret further."""

from __future__ import annotations

from pathlib import Path

import pytest

from cellmove.core.errors import CallFailed, CallUncertain, CannotConnect, NotFound, scrub
from cellmove.core.move import Move, State
from cellmove.engine.journal_open import open_journal

FERNET = "gAAAAABmXyz0123456789_-abcdefghijklmnopqrstuvwxyz=="
SECRETS = (
    "cannot reach rabbit://nova:hunter2@mq.example:5672/cell1",
    "mysql+pymysql://nova:hunter2@db/nova_cell1?charset=utf8",
    "http://admin:hunter2@sla/sh@keystone:5000/v3 said no",
    "rabbit://a:hunter2@one:5672,b:hunter2@two:5672/",
    f"token {FERNET.replace('abc', 'hunter2')} is not valid",
    "headers {'X-Auth-Token': 'hunter2', 'Accept': '*/*'}",
    "X-Service-Token: hunter2",
    "Authorization: Bearer hunter2",
    '{"auth": {"password": "hunter2"}}',
    "{'adminPass': 'hunter2', 'name': 'web'}",
    "[neutron] password = hunter2",
    "auth_token=hunter2&x=1",
    "eyJhbGciOi.hunter2eyJ.c2ln-nature",
)
HARMLESS = (
    "MigrationPreCheckError: Migration pre-check error: no room on c2-host1",
    "No valid host was found. There are not enough hosts available.",
    "port 5c1f0c1e-8a44-4d57-9a3c-0c3f0a9f3d11 is active on c1-host1",
    "http://keystone:5000/v3 answers 503",
    "found task_state='resize_prep', vm_state='active'",
    "nova-compute on compute-1@rack-2 is down",
    "Access denied for user 'nova'@'10.0.0.5' (using password: YES) (error 1045)",
)


@pytest.mark.parametrize("text", SECRETS)
def test_a_secret_is_taken_out(text: str) -> None:
    assert "hunter2" in text
    assert "hunter2" not in scrub(text)
    assert "***" in scrub(text)
    assert scrub(scrub(text)) == scrub(text)


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_words_stay(text: str) -> None:
    assert scrub(text) == text


def test_what_else_a_line_says_stays() -> None:
    assert scrub("cannot reach rabbit://nova:hunter2@mq.example:5672/cell1") == (
        "cannot reach rabbit://nova:***@mq.example:5672/cell1"
    )
    assert scrub(f"HTTP 401: token {FERNET} has expired") == "HTTP 401: token *** has expired"


@pytest.mark.parametrize("kind", [CallFailed, CallUncertain, CannotConnect, NotFound])
def test_every_failed_call_is_scrubbed(kind: type[CallFailed]) -> None:
    assert str(kind(SECRETS[0])) == scrub(SECRETS[0])


def test_the_journal_holds_no_secret_in_an_error(tmp_path: Path) -> None:
    journal = open_journal(str(tmp_path / "journal.db"), lambda: "now")
    journal.open_move(Move("m1", "uuid-1", "web-1", "resize", State.PLANNED, "", ""))
    journal.failed(journal.intend("m1", "prep-dest", "claim", {}), " ".join(SECRETS))
    (entry,) = journal.entries_of("m1")
    assert "***" in entry.error
    assert b"hunter2" not in (tmp_path / "journal.db").read_bytes()
