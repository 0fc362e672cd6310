"""What is shown: documents, tables, lines; off a terminal without a single escape sequence."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pty
import re
import time
from dataclasses import dataclass
from typing import Any

import pytest

from cellmove.checks.preflight import CheckResult, Level
from cellmove.core.errors import RolledBack, Stopped
from cellmove.core.move import Entry, Move, Phase, State, Step
from cellmove.engine.events import Event, EventKind
from cellmove.operations import documents
from cellmove.ui import console, move_text, progress
from cellmove.ui import documents as ui_documents

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    @property
    def plain(self) -> str:
        """What was written, without colours and cursor movements."""
        return ESCAPE.sub("", self.getvalue()).replace("\r", "")


class Gone(io.StringIO):
    """A stream whose reader has gone away."""

    writes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        raise BrokenPipeError


@pytest.fixture(autouse=True)
def _xterm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("NO_COLOR", raising=False)


def a_move(state: State = State.PLANNED, **plan: Any) -> Move:
    document = {"source_cell": "cell1", "source_host": "compute-1"} | plan
    return Move(
        "m1", "uuid-1", "web-1", "resize", state, "2026-01-01T10:00:00.000Z", "2026-01-01T10:05:00.000Z", document
    )


def entry(sequence: int, step: Step, action: str, phase: Phase, **more: Any) -> Entry:
    values: dict[str, Any] = {
        "intent": {},
        "result": {},
        "error": "",
        "started_at": "2026-01-01T10:00:00.000Z",
        "finished_at": "2026-01-01T10:00:02.500Z",
    }
    return Entry("m1", sequence, step.value, action, phase, **(values | more))


@dataclass
class Report:
    move: Move | None
    summary: dict[str, Any]
    checks: tuple[CheckResult, ...]

    @property
    def refused(self) -> bool:
        return any(check.level is Level.REFUSAL for check in self.checks)


SUMMARY = {
    "server_id": "uuid-1", "server_name": "web-1", "status": "ACTIVE", "kind": "resize", "source_cell": "cell1",
    "source_host": "compute-1", "target_cell": "cell2", "flavor_from": "m1.small", "flavor_to": "m1.large",
    "target_hosts": [{"host": f"compute-{n}", "cell": "cell2", "note": "half full" if n == 11 else ""} for n in range(11, 18)],
    "backing": "image", "active": True, "ports": 2, "volumes": 1, "copied": {"instances": 1, "tags": 2},
    "lost": ["the ephemeral disk"], "transfer": "image",
}  # fmt: skip


# documents


def states(move: Move, entries: list[Entry]) -> dict[str, str]:
    return {step["step"]: step["state"] for step in documents.move_document(move, entries)["steps"]}


def test_a_planned_move_has_its_way_before_it() -> None:
    assert states(a_move(), []) == dict.fromkeys(("prep-dest", "prep-source", "finish", "confirm"), "pending")


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        ((Phase.DONE, Phase.INTENT), "running"),
        ((Phase.DONE, Phase.FAILED), "failed"),
        ((Phase.DONE, Phase.UNDOING), "running"),
        ((Phase.UNDONE, Phase.UNDONE), "undone"),
    ],
)
def test_the_state_of_a_step_that_is_not_done(phases: tuple[Phase, Phase], expected: str) -> None:
    entries = [entry(number, Step.PREP_DEST, f"a{number}", phase) for number, phase in enumerate(phases, 1)]
    assert states(a_move(), entries)["prep-dest"] == expected


def test_done_steps_and_what_is_next() -> None:
    done = [
        entry(
            1,
            Step.PREP_DEST,
            "claim",
            Phase.DONE,
            result={"target_host": "compute-11", "target_cell": "cell2", "target_cell_uuid": "uuid-2"},
        )
    ]
    document = documents.move_document(a_move(State.FINISHED), done)
    assert document["target"] == {"cell": "cell2", "cell_uuid": "uuid-2", "host": "compute-11"}
    assert document["next"] == ["cellmove confirm m1", "cellmove revert m1"]
    assert {step["step"]: step["state"] for step in document["steps"]} == {
        "prep-dest": "done", "prep-source": "done", "finish": "done", "confirm": "pending",
    }  # fmt: skip


def test_a_confirmed_a_reverted_and_a_rolled_back_move() -> None:
    assert states(a_move(State.CONFIRMED), [])["confirm"] == "done"
    assert "revert" not in states(a_move(State.CONFIRMED), [])
    reverted = states(a_move(State.REVERTED), [entry(1, Step.REVERT, "a", Phase.DONE)])
    assert reverted["revert"] == "done"
    assert "confirm" not in reverted
    assert states(a_move(State.ROLLED_BACK), [entry(1, Step.PREP_DEST, "a", Phase.UNDONE)]) == {"prep-dest": "undone"}


def test_a_revert_under_way() -> None:
    found = states(a_move(State.FINISHED), [entry(1, Step.REVERT, "a", Phase.INTENT)])
    assert found["revert"] == "running"
    assert "confirm" not in found


def test_a_plan_that_is_refused() -> None:
    checks = (
        CheckResult("locked", Level.REFUSAL, "the server is locked", "unlock it"),
        CheckResult("up", Level.OK, "fine"),
    )
    document = ui_documents.plan_document(Report(None, SUMMARY, checks), [], "cellmove plan web-1")
    assert document["refused"]
    assert document["move"] is None
    assert document["state"] == "refused"
    assert document["checks"][0] == {
        "code": "locked", "level": "refusal", "text": "the server is locked", "remedy": "unlock it",
    }  # fmt: skip
    json.dumps(document)


# results


def shown(document: dict[str, Any], draw: Any, form: str = "table", stream: io.StringIO | None = None) -> str:
    stream = stream or io.StringIO()
    console.render(document, form, stream, draw)
    return stream.getvalue()


def test_json_is_the_document() -> None:
    document = documents.move_document(a_move(), [])
    assert json.loads(shown(document, move_text.draw_move, "json")) == document


def test_bare_values_are_one_line_with_tabs() -> None:
    document = documents.move_document(a_move(), [])
    assert shown(document, move_text.draw_move, "value") == "m1\tplanned\tcellmove prep-dest m1\n"
    listed = ui_documents.list_document([(a_move(), []), (a_move(State.CONFIRMED), [])])
    assert shown(listed, move_text.draw_list, "value") == "m1\tplanned\tcellmove prep-dest m1\nm1\tconfirmed\t\n"


def test_a_move_off_a_terminal_is_aligned_and_plain() -> None:
    text = shown(documents.move_document(a_move(), []), move_text.draw_move)
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[0] == "move    m1"
    assert "from    cell1 / compute-1" in lines
    assert "next    cellmove prep-dest m1" in lines
    assert "or      cellmove rollback m1" in lines


def test_the_details_name_every_action_with_its_time_and_error() -> None:
    entries = [
        entry(1, Step.PREP_DEST, "claim", Phase.UNDONE, error="no valid host"),
        entry(2, Step.PREP_DEST, "claim", Phase.INTENT, finished_at=""),
    ]
    text = shown(documents.move_document(a_move(), entries), move_text.draw_details)
    assert re.search(r"claim +undone +10:00:00 +2\.5 s +no valid host\n", text)
    assert re.search(r"claim +intent +10:00:00\n", text)
    assert re.search(r"prep-dest +running\n", text)


def test_a_list() -> None:
    listed = ui_documents.list_document([(a_move(), [])])
    text = shown(listed, move_text.draw_list)
    assert text.splitlines()[0].split() == ["MOVE", "SERVER", "KIND", "STATE", "FROM", "TO", "CHANGED", "(UTC)", "NEXT"]
    assert "cellmove prep-dest m1" in text
    assert shown(ui_documents.list_document([]), move_text.draw_list) == "moves  none\n"


def test_a_plan() -> None:
    checks = (
        CheckResult("up", Level.OK, "fine"),
        CheckResult("drive", Level.WARNING, "the config drive is rebuilt"),
        CheckResult("locked", Level.REFUSAL, "the server is locked", "unlock it"),
    )
    text = shown(
        ui_documents.plan_document(Report(None, SUMMARY, checks), [], "cellmove plan web-1"), move_text.draw_plan
    )
    assert "flavor  m1.small -> m1.large" in text
    assert "compute-11 (half full), compute-12" in text
    assert "and 2 more" in text
    assert "checks  1 passed, 1 warning, 1 refusal" in text
    assert text.index("the server is locked [locked]") < text.index("do: unlock it") < text.index("config drive")
    assert "lost    the ephemeral disk" in text
    assert "2 ports, 1 volume" in text
    assert "3 rows of 2 tables" in text


def test_a_plan_of_what_could_not_be_looked_at() -> None:
    bare = {"server_id": "uuid-1", "server_name": "web-1", "target_hosts": [], "copied": {}, "lost": [], "backing": ""}
    checks = (CheckResult("x", Level.REFUSAL, "no"),)
    text = shown(ui_documents.plan_document(Report(None, bare, checks), [], ""), move_text.draw_plan)
    assert "lost" not in text
    assert "guest" not in text


def test_on_a_terminal_it_is_the_same_text_in_colour() -> None:
    document = documents.move_document(a_move(State.FINISHED), [])
    stream = Terminal()
    coloured = shown(document, move_text.draw_details, stream=stream)
    assert "\x1b[" in coloured
    plain = shown(document, move_text.draw_details)
    assert stream.plain.split() == plain.split()


def test_no_colour_when_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    coloured = shown(documents.move_document(a_move(State.FINISHED), []), move_text.draw_move, stream=Terminal())
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", coloured)


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_a_server_name_cannot_write_on_the_terminal(stream: io.StringIO) -> None:
    move = Move("m1", "uuid-1", "web\x1b]0;evil\x07[red]\n", "resize", State.PLANNED, "", "", {})
    text = shown(documents.move_document(move, []), move_text.draw_move, stream=stream)
    assert "\x1b]" not in text
    assert "\x07" not in text
    assert "[red]" in text


def test_an_error_is_three_lines() -> None:
    error = RolledBack("prep-dest of web-1 failed: no", state="it was rolled back", next_command="cellmove plan web-1")
    expected = "prep-dest of web-1 failed: no\nstate: it was rolled back\nnext: cellmove plan web-1\n"
    plain, terminal = io.StringIO(), Terminal()
    console.render_error(error, plain)
    console.render_error(error, terminal)
    assert plain.getvalue() == expected
    assert terminal.plain == expected
    assert "\x1b[" in terminal.getvalue()
    short = io.StringIO()
    console.render_error(Stopped("only this"), short)
    assert short.getvalue() == "only this\n"


def test_a_reader_that_has_gone_is_no_error() -> None:
    drawn, refused, followed = Gone(), Gone(), Gone()
    console.render(documents.move_document(a_move(), []), "json", drawn, move_text.draw_move)
    console.render_error(Stopped("without a reader"), refused)
    with progress.renderer_for(followed, quiet=False) as observer:
        observer(Event(EventKind.NOTE, "m1", "web-1", text="without a reader"))
        observer.announce("nor this")
    assert all(stream.writes for stream in (drawn, refused, followed))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (0.1, "0.1 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 00 s"),
     (125, "2 min 05 s"), (3840, "1 h 04 min"), (-1, "0.0 s")],
)  # fmt: skip
def test_lengths_of_time(seconds: float, words: str) -> None:
    assert console.duration(seconds) == words


@pytest.mark.parametrize("term", ["dumb", ""])
def test_a_terminal_that_cannot_draw_gets_plain_lines(monkeypatch: pytest.MonkeyPatch, term: str) -> None:
    monkeypatch.setenv("TERM", term)
    assert not console.is_terminal(Terminal())


# progress


def event(kind: EventKind, **more: Any) -> Event:
    return Event(kind, more.pop("move_id", "m1"), more.pop("server_name", "web-1"), **({"step": "prep-dest"} | more))


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


@pytest.fixture
def plain(clock: list[float]) -> tuple[progress.LineRenderer, io.StringIO]:
    stream = io.StringIO()
    return progress.LineRenderer(stream, lambda: clock[0], lambda: "12:00:00"), stream


def test_one_line_for_each_change(plain: tuple[progress.LineRenderer, io.StringIO]) -> None:
    observer, stream = plain
    for one in (
        event(EventKind.STEP_STARTED),
        event(EventKind.ACTION_STARTED, action="copy", title="copy the records"),
        event(EventKind.WAITING, action="copy", text="not there yet"),
        event(EventKind.WAITING, action="copy", text="not there yet"),
        event(EventKind.ACTION_FINISHED, action="copy", title="copy the records to cell2", seconds=0.1),
        event(EventKind.ACTION_STARTED, action="bind", title="bind the ports"),
        event(EventKind.ACTION_FAILED, action="bind", text="HTTP 409"),
        event(EventKind.UNDO_STARTED, action="copy", title="copy the records"),
        event(EventKind.UNDO_FINISHED, action="copy", title="copy the records", seconds=2),
        event(EventKind.NOTE, step="", text="look here"),
        event(EventKind.STEP_FINISHED, seconds=75),
    ):
        observer(one)
    assert stream.getvalue().splitlines() == [
        "12:00:00 web-1 prep-dest: started",
        "12:00:00 web-1 prep-dest: copy the records: waiting: not there yet",
        "12:00:00 web-1 prep-dest: copy the records to cell2 (0.1 s)",
        "12:00:00 web-1 prep-dest: bind the ports: failed: HTTP 409",
        "12:00:00 web-1 prep-dest: rolled back: copy the records (2.0 s)",
        "12:00:00 web-1: note: look here",
        "12:00:00 web-1 prep-dest: done (1 min 15 s)",
    ]
    assert observer.running == {}


def test_a_heartbeat_once_a_minute(plain: tuple[progress.LineRenderer, io.StringIO], clock: list[float]) -> None:
    observer, stream = plain
    observer(event(EventKind.ACTION_STARTED, action="image", title="upload the disk"))
    for second in range(0, 181, 10):
        clock[0] = float(second)
        observer.tick()
    assert stream.getvalue().splitlines() == [
        "12:00:00 web-1 prep-dest: in progress: upload the disk (1 min 00 s)",
        "12:00:00 web-1 prep-dest: in progress: upload the disk (2 min 00 s)",
        "12:00:00 web-1 prep-dest: in progress: upload the disk (3 min 00 s)",
    ]
    observer(event(EventKind.ACTION_FINISHED, action="image", title="upload the disk", seconds=185))
    clock[0] = 1000.0
    observer.tick()
    assert len(stream.getvalue().splitlines()) == 4


def test_two_moves_at_once_are_told_apart(plain: tuple[progress.LineRenderer, io.StringIO]) -> None:
    observer, stream = plain
    observer(event(EventKind.ACTION_STARTED, action="a", title="one"))
    observer(event(EventKind.ACTION_STARTED, move_id="m2", server_name="web-2", action="a", title="two"))
    observer(event(EventKind.ACTION_FAILED, action="a", text="no"))
    assert stream.getvalue() == "12:00:00 web-1 prep-dest: one: failed: no\n"
    assert [running.title for running in observer.running.values()] == ["two"]


def test_what_others_wrote_cannot_reach_the_terminal(plain: tuple[progress.LineRenderer, io.StringIO]) -> None:
    observer, stream = plain
    observer(event(EventKind.NOTE, text="a\x1b[31mb\nc"))
    assert "\x1b" not in stream.getvalue()
    assert len(stream.getvalue().splitlines()) == 1


def test_quiet_shows_only_announcements() -> None:
    stream = io.StringIO()
    with progress.renderer_for(stream, quiet=True) as observer:
        observer(event(EventKind.STEP_STARTED))
        observer.announce("finishing")
    assert stream.getvalue() == "finishing\n"


def test_off_a_terminal_lines_carry_the_time_of_day() -> None:
    stream = io.StringIO()
    with progress.renderer_for(stream, quiet=False) as observer:
        observer(event(EventKind.STEP_STARTED))
        observer.announce("finishing")
    assert re.fullmatch(r"\d\d:\d\d:\d\d web-1 prep-dest: started\n\d\d:\d\d:\d\d finishing\n", stream.getvalue())


def test_on_a_terminal_lines_are_aligned_and_the_spinner_goes_away(clock: list[float]) -> None:
    stream = Terminal()
    with progress.renderer_for(stream, quiet=False, monotonic=lambda: clock[0]) as observer:
        for one in (
            event(EventKind.STEP_STARTED),
            event(EventKind.ACTION_STARTED, action="copy", title="copy the records"),
            event(EventKind.ACTION_FINISHED, action="copy", title="copy the records", seconds=0.1),
            event(EventKind.ACTION_STARTED, action="bind", title="bind 2 ports to compute-11"),
            event(EventKind.ACTION_FINISHED, action="bind", title="bind 2 ports to compute-11", seconds=65),
            event(EventKind.ACTION_STARTED, action="image", title="upload"),
            event(EventKind.ACTION_FAILED, action="image", text="HTTP 500"),
            event(EventKind.UNDO_STARTED, action="bind", title="bind 2 ports"),
            event(EventKind.UNDO_FINISHED, action="bind", title="bind 2 ports", seconds=1),
        ):
            observer(one)
    text = stream.plain
    done = [line for line in text.splitlines() if line.startswith("  ✓")]
    assert [line.endswith(" s") for line in done] == [True, True]
    assert len({len(line) for line in done}) == 1
    assert "prep-dest  web-1" in text
    assert "✗ upload" in text
    assert "HTTP 500" in text
    assert "↶ rolled back: bind 2 ports" in text
    assert stream.getvalue().rindex("\x1b[?25h") > stream.getvalue().rindex("\x1b[?25l")


def test_the_action_under_way_shows_its_seconds_and_what_it_waits_for(clock: list[float]) -> None:
    live = progress.LiveRenderer(Terminal(), "looking at the cloud", lambda: clock[0])
    clock[0] = 3.0
    assert live._render().plain.split()[1:] == ["looking", "at", "the", "cloud", "3.0", "s"]
    live(event(EventKind.ACTION_STARTED, action="image", title="upload the disk"))
    live(event(EventKind.WAITING, action="image", text="40 % there"))
    clock[0] = 75.0
    live.announce("finishing the current action")
    first, second, third = live._render().plain.splitlines()
    assert "upload the disk" in first
    assert first.endswith("1 min 12 s")
    assert second.strip() == "40 % there"
    assert third == "finishing the current action"
    live(event(EventKind.UNDO_STARTED, action="image", title="upload the disk"))
    assert "rolling back: upload the disk" in live._render().plain


def test_a_terminal_without_unicode_gets_other_marks() -> None:
    class Old(Terminal):
        encoding = "ascii"

    assert all(mark.isascii() for mark in dataclasses.astuple(progress.marks_for(Old())))


def test_a_real_terminal_sees_the_spinner_move() -> None:
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w", encoding="utf-8") as stream:
        with progress.renderer_for(stream, quiet=False) as observer:
            observer(event(EventKind.ACTION_STARTED, action="image", title="upload the disk"))
            time.sleep(0.5)
        seen = os.read(leader, 100_000).decode()
    os.close(leader)
    assert len(set(re.findall("[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏]", seen))) >= 2
