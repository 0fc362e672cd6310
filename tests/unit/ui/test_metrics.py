"""``cellmove metrics``: what it counts, in which format, and into which file."""

from __future__ import annotations

import datetime
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from cellmove.core.clock import text_of
from cellmove.core.files import publish
from cellmove.core.move import DRAIN, Entry, Move, Phase, State, Step
from cellmove.drain.item import Stage, Task
from cellmove.drain.options import DrainOptions
from cellmove.drain.queue import Queue
from cellmove.drain.request import DrainRequest
from cellmove.engine.journal import Journal
from cellmove.engine.journal_open import open_journal
from cellmove.steps import confirm, finish, revert
from cellmove.ui import metrics
from tests.support.commands import typed

NOW = datetime.datetime.now(datetime.UTC).timestamp()
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def moment(seconds: float) -> str:
    """A time so many seconds before the tests began."""
    return text_of(datetime.datetime.fromtimestamp(NOW - seconds, datetime.UTC))


def a_move(move_id: str, state: State, age: float = 3600.0, **plan: object) -> Move:
    known = {"active": True, "transfer": "stream", **plan}
    return Move(
        f"move-{move_id}", f"id-{move_id}", f"web-{move_id}", "migration", state, moment(age), moment(age / 2), known
    )


def line(move: Move, number: int, step: str, action: str, began: float, ended: float, **more: object) -> Entry:
    """A line that began and ended so many seconds after its move was planned."""
    start = 3600.0
    values = {"phase": Phase.DONE, "error": "", **more}
    return Entry(
        move.id, number, step, action, values["phase"], {}, {}, str(values["error"]), moment(start - began), moment(start - ended),
    )  # type: ignore[arg-type]  # fmt: skip


def whole(move: Move, *more: Entry) -> list[Entry]:
    """The lines of a move up to the end of finish: 9 s to prepare, 20 s down."""
    return [
        line(move, 1, "prep-dest", "take_server", 0, 1),
        line(move, 2, "prep-dest", "claim", 1, 9),
        line(move, 3, "prep-source", "stop_source", 10, 25),
        line(move, 4, "finish", "start_target", 26, 30),
        line(move, 5, "finish", "close", 30, 31),
        *more,
    ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    opened = open_journal(str(path), lambda: moment(0))
    yield opened
    opened.engine.dispose()


def read(path: Path, *words: str) -> Samples:
    """The figures of a journal, as OpenMetrics."""
    result = typed("--journal", str(path), "metrics", *words)
    assert (result.exit_code, result.stderr) == (0, "")
    return samples(parse_openmetrics(result.stdout))


def samples(families: object) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families  # type: ignore[attr-defined]
        for sample in family.samples
    }


def of(found: Samples, name: str, **labels: str) -> float:
    return found[f"cellmove_{name}", frozenset(labels.items())]


def test_the_last_actions_are_those_of_the_steps() -> None:
    assert {
        Step.PREP_DEST: finish.ACTIONS[-1].name, Step.PREP_SOURCE: finish.ACTIONS[-1].name,
        Step.FINISH: finish.ACTIONS[-1].name, Step.CONFIRM: confirm.ACTIONS[-1].name,
        Step.REVERT: revert.ACTIONS[-1].name,
    } == metrics.LAST_ACTIONS  # fmt: skip


def test_without_a_journal_there_are_no_moves_and_no_journal_is_made(path: Path) -> None:
    found = read(path)
    assert of(found, "open_move_oldest_age_seconds", state="planned") == 0
    assert of(found, "step_duration_seconds_count", step="finish") == 0
    assert not path.exists()


def test_moves_by_state_and_the_ages_of_open_ones(journal: Journal, path: Path) -> None:
    for name, state, age in (
        ("1", State.PLANNED, 100.0),
        ("2", State.PLANNED, 9000.0),
        ("3", State.CONFIRMED, 99999.0),
    ):
        journal.open_move(a_move(name, state, age))
    found = read(path)
    assert of(found, "moves", kind="migration", state="planned") == 2
    assert of(found, "moves", kind="migration", state="confirmed") == 1
    assert 9000 <= of(found, "open_move_oldest_age_seconds", state="planned") < 9600
    assert 4500 <= of(found, "open_move_longest_in_state_seconds", state="planned") < 5100
    assert of(found, "open_move_oldest_age_seconds", state="finished") == 0


def test_repairs_are_no_moves(journal: Journal, path: Path) -> None:
    move = a_move("1", State.REPAIRED)
    journal.open_move(Move(**{**vars(move), "kind": "audit"}))
    found = read(path)
    assert of(found, "repairs", state="repaired") == 1
    assert not any(name == "cellmove_moves" for name, _labels in found)


def test_durations_and_downtime_of_a_confirmed_move(journal: Journal, path: Path) -> None:
    move = a_move("1", State.CONFIRMED)
    done = line(move, 6, "confirm", "begin_confirm", 40, 41), line(move, 7, "confirm", "settle_target", 41, 44)
    journal.adopt(move, whole(move, *done))
    found = read(path)
    for step, seconds in (("prep-dest", 9), ("prep-source", 15), ("finish", 5), ("confirm", 4)):
        assert of(found, "step_duration_seconds_sum", step=step) == pytest.approx(seconds)
        assert of(found, "step_duration_seconds_count", step=step) == 1
    down = {"direction": "there", "transfer": "stream"}
    assert of(found, "guest_downtime_seconds_sum", **down) == pytest.approx(20)
    buckets = {
        bound: of(found, "guest_downtime_seconds_bucket", le=bound, **down) for bound in ("10.0", "20.0", "+Inf")
    }
    assert buckets == {"10.0": 0, "20.0": 1, "+Inf": 1}
    assert of(found, "guest_downtime_seconds_count", direction="back", transfer="stream") == 0


def test_the_way_back_is_a_downtime_of_its_own(journal: Journal, path: Path) -> None:
    move = a_move("1", State.REVERTED, transfer="", volume_backed=True)
    back = (
        line(move, 6, "revert", "clean_target", 50, 53),
        line(move, 7, "revert", "start_source", 55, 61),
        line(move, 8, "revert", "close_revert", 61, 62),
    )
    journal.adopt(move, whole(move, *back))
    found = read(path)
    assert of(found, "guest_downtime_seconds_sum", direction="there", transfer="volumes") == pytest.approx(20)
    assert of(found, "guest_downtime_seconds_sum", direction="back", transfer="volumes") == pytest.approx(11)
    assert of(found, "step_duration_seconds_sum", step="revert") == pytest.approx(12)


def test_a_guest_that_was_off_had_no_downtime(journal: Journal, path: Path) -> None:
    move = a_move("1", State.FINISHED, active=False)
    journal.adopt(move, whole(move))
    assert of(read(path), "guest_downtime_seconds_count", direction="there", transfer="stream") == 0


@pytest.mark.parametrize("state", [State.SOURCE_PREPARED, State.ROLLING_BACK])
def test_a_step_that_may_be_rolled_back_yet_does_not_count(journal: Journal, path: Path, state: State) -> None:
    move = a_move("1", state)
    journal.adopt(move, whole(move)[:3])
    found = read(path)
    assert [of(found, "step_duration_seconds_count", step=step) for step in ("prep-dest", "prep-source")] == [0, 0]


@pytest.mark.parametrize(
    ("state", "lines"),
    [(State.SOURCE_PREPARED, 4), (State.ROLLING_BACK, 4), (State.FINISHED, 7)],
    ids=["finish", "rollback", "revert"],
)
def test_a_downtime_that_may_change_yet_does_not_count(journal: Journal, path: Path, state: State, lines: int) -> None:
    move = a_move("1", state)
    back = line(move, 6, "revert", "clean_target", 50, 53), line(move, 7, "revert", "start_source", 55, 61)
    journal.adopt(move, whole(move, *back)[:lines])
    found = read(path)
    counts = [of(found, "guest_downtime_seconds_count", direction=d, transfer="stream") for d in ("there", "back")]
    assert counts == [1.0 if state is State.FINISHED else 0.0, 0.0]


def test_the_downtime_of_a_move_that_was_rolled_back_counts_once(journal: Journal, path: Path) -> None:
    move = a_move("1", State.ROLLED_BACK)
    undone = {"phase": Phase.UNDONE}
    start = line(move, 4, "finish", "start_target", 26, 40, **undone)
    journal.adopt(move, [line(move, 3, "prep-source", "stop_source", 10, 50, **undone), start])
    found = read(path)
    down = {"direction": "there", "transfer": "stream"}
    assert of(found, "guest_downtime_seconds_count", **down) == 1
    assert of(found, "guest_downtime_seconds_sum", **down) == pytest.approx(40)


@pytest.mark.parametrize(
    ("state", "count", "phase", "seconds"),
    [
        (State.DEST_PREPARED, 2, Phase.DONE, 0),
        (State.DEST_PREPARED, 3, Phase.INTENT, 3590),
        (State.DEST_PREPARED, 3, Phase.DONE, 3590),
        (State.ROLLING_BACK, 3, Phase.UNDOING, 3590),
        (State.ROLLING_BACK, 3, Phase.UNDONE, 0),
        (State.SOURCE_PREPARED, 4, Phase.INTENT, 3590),
        (State.SOURCE_PREPARED, 4, Phase.DONE, 0),
        (State.FINISHED, 6, Phase.INTENT, 3550),
        (State.FINISHED, 7, Phase.DONE, 0),
    ],
)
def test_for_how_long_a_guest_is_down(
    journal: Journal, path: Path, state: State, count: int, phase: Phase, seconds: int
) -> None:
    move = a_move("1", state)
    back = line(move, 6, "revert", "clean_target", 50, 53), line(move, 7, "revert", "start_source", 55, 61)
    lines = whole(move, *back)[:count]
    journal.adopt(move, [*lines[:-1], replace(lines[-1], phase=phase)])
    assert seconds <= of(read(path), "guest_down_seconds") < seconds + (600 if seconds else 1)


@pytest.mark.parametrize(("state", "active"), [(State.SERVER_GONE, True), (State.DEST_PREPARED, False)])
def test_a_guest_without_an_open_move_or_off_before_is_not_down(
    journal: Journal, path: Path, state: State, *, active: bool
) -> None:
    move = a_move("1", state, active=active)
    journal.adopt(move, whole(move)[:3])
    assert of(read(path), "guest_down_seconds") == 0


def test_what_adopt_wrote_has_no_duration(journal: Journal, path: Path) -> None:
    move = a_move("1", State.FINISHED)
    journal.adopt(move, [line(move, n, each.step, each.action, 5, 5) for n, each in enumerate(whole(move), start=1)])
    found = read(path)
    assert of(found, "step_duration_seconds_count", step="finish") == 0
    assert of(found, "guest_downtime_seconds_count", direction="there", transfer="stream") == 0


def test_failures_count_moves_by_action(journal: Journal, path: Path) -> None:
    for name in ("1", "2"):
        move = a_move(name, State.ROLLED_BACK)
        failed = {"phase": Phase.UNDONE, "error": "no space left; password=secret"}
        journal.adopt(move, [line(move, n, "prep-dest", "claim", n, n + 1, **failed) for n in (1, 2)])
    result = typed("--journal", str(path), "metrics")
    assert 'cellmove_failures{action="claim",step="prep-dest"} 2.0' in result.stdout
    assert "secret" not in result.stdout


# drains


def a_drain(journal: Journal, state: State, cell: str = "cell1", age: float = 7200.0) -> tuple[Move, Queue]:
    plan = {"command": f"cellmove drain-cell {cell}", "closes_cell": True, "hosts": []}
    record = Move(f"drain-{cell}", f"uuid-{cell}", cell, DRAIN, state, moment(age), moment(age), plan)
    journal.open_move(record)
    queue = Queue(journal, record.id, "elsewhere:1:a")
    queue.prepare(DrainRequest(DrainOptions()))
    return record, queue


def test_where_a_drain_stands(journal: Journal, path: Path) -> None:
    moves = [a_move(name, State.CONFIRMED) for name in ("1", "2")]
    for move in moves:
        journal.adopt(move, whole(move))
    tasks = [Task(move.server_id, "x", stage=Stage.MOVED, move_id=move.id, disk_gb=3) for move in moves]
    tasks += [Task(f"id-{n}", "x", stage=Stage.WAITING) for n in (3, 4, 5, 6)]
    tasks += [Task("id-7", "x", stage=Stage.REFUSED, code="locked,ephemeral")]
    _record, queue = a_drain(journal, State.DRAINING)
    queue.synchronise(tasks, is_alone=True, now=0.0)
    queue.renew_leases(datetime.datetime.now(datetime.UTC).timestamp())  # leases end by the real clock
    found, cell = read(path), {"cell": "cell1", "cell_uuid": "uuid-cell1"}
    assert [of(found, f"drain_{name}", **cell) for name in ("open", "runs", "moved_bytes")] == [1, 1, 6 << 30]
    counts = {stage: of(found, "drain_servers", stage=stage.value, **cell) for stage in Stage}
    assert counts == {**dict.fromkeys(Stage, 0), Stage.MOVED: 2, Stage.WAITING: 4, Stage.REFUSED: 1}
    assert of(found, "drain_trouble", stage="refused", code="locked", **cell) == 1
    rate, left = (of(found, f"drain_{name}", **cell) for name in ("servers_per_hour", "remaining_seconds"))
    assert rate == pytest.approx(2 / 31 * 3600)  # both were moved in the same 31 s
    assert left == pytest.approx(4 * 31 / 2)


def test_a_drain_that_moved_nothing_has_no_rate(journal: Journal, path: Path) -> None:
    _record, queue = a_drain(journal, State.CORDONING)
    queue.synchronise([Task("id-1", "x")], is_alone=True, now=0.0)
    names = {name for name, _labels in read(path)}
    assert "cellmove_drain_servers" in names
    assert names.isdisjoint({"cellmove_drain_servers_per_hour", "cellmove_drain_remaining_seconds"})


def test_a_drain_vanishes_a_week_after_its_end(journal: Journal, path: Path) -> None:
    a_drain(journal, State.DRAINED, "cell1", age=6.5 * 86400)
    a_drain(journal, State.DRAINED, "cell2", age=7.5 * 86400)
    a_drain(journal, State.DRAINING, "cell3", age=30 * 86400)
    found = read(path)
    assert {dict(labels)["cell"]: value for (name, labels), value in found.items() if name == "cellmove_drain_open"} == {
        "cell1": 0, "cell3": 1,
    }  # fmt: skip


# files


def test_a_text_file_is_what_node_exporter_reads(journal: Journal, path: Path, tmp_path: Path) -> None:
    move = a_move("1", State.CONFIRMED)
    journal.adopt(move, whole(move))
    target = tmp_path / "cellmove.prom"
    target.write_text("old")
    before = os.umask(0o077)
    try:
        result = typed("--journal", str(path), "metrics", "--textfile", str(target))
    finally:
        os.umask(before)
    assert (result.exit_code, result.output) == (0, "")
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    text = target.read_text()
    assert "# EOF" not in text  # of OpenMetrics, which node_exporter does not read
    assert of(samples(parse_text(text)), "moves", kind="migration", state="confirmed") == 1
    assert not [each.name for each in tmp_path.iterdir() if each.name.startswith(".")]


def test_both_formats_hold_the_same(journal: Journal, path: Path, tmp_path: Path) -> None:
    journal.adopt(a_move("1", State.CONFIRMED), whole(a_move("1", State.CONFIRMED)))
    typed("--journal", str(path), "metrics", "--textfile", str(tmp_path / "x.prom"))
    assert samples(parse_text((tmp_path / "x.prom").read_text())) == read(path)


def test_a_journal_that_may_only_be_read_is_read_and_left_alone(journal: Journal, path: Path) -> None:
    journal.open_move(a_move("1", State.PLANNED))
    journal.engine.dispose()
    path.chmod(0o400)
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert of(read(path), "moves", kind="migration", state="planned") == 1
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_a_damaged_journal_leaves_the_old_file(path: Path, tmp_path: Path) -> None:
    path.write_bytes(b"no database" * 100)
    target = tmp_path / "cellmove.prom"
    target.write_text("old")
    result = typed("--journal", str(path), "metrics", "--textfile", str(target))
    assert result.exit_code == 4
    assert target.read_text() == "old"


@pytest.mark.parametrize(
    ("words", "why"),
    [(("--textfile", "cellmove.txt"), "ends in .prom"), (("-f", "json"), "No such option")],
)
def test_what_makes_no_sense_is_refused(words: tuple[str, ...], why: str) -> None:
    result = typed("metrics", *words)
    assert result.exit_code == 2
    assert why in result.stderr


def test_json_is_refused_in_front_of_the_verb() -> None:
    result = typed("-f", "json", "metrics")
    assert result.exit_code == 2
    assert "OpenMetrics, not JSON" in result.stderr


@pytest.mark.parametrize("name", ["missing/cellmove.prom", "folder.prom", "nul\0.prom"])
def test_a_file_that_cannot_be_written_ends_with_4(path: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.prom").mkdir()
    result = typed("--journal", str(path), "metrics", "--textfile", f"{tmp_path}/{name}")
    assert result.exit_code == 4
    assert "cannot be written" in result.stderr
    assert "fault in cellmove" not in result.stderr


def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "cellmove.prom"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="no regular file"):
        publish(pipe, b"text")
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_link_at_the_temporary_name_is_not_followed(tmp_path: Path) -> None:
    victim, target = tmp_path / "victim", tmp_path / "cellmove.prom"
    victim.write_text("precious")
    (tmp_path / f".cellmove.prom.{os.getpid()}.new").symlink_to(victim)
    publish(target, b"text")
    assert (victim.read_text(), target.read_bytes(), target.is_symlink()) == ("precious", b"text", False)


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    target = tmp_path / "cellmove.prom"
    publish(target, b"old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        publish(target, b"new")
    assert [each.name for each in tmp_path.iterdir()] == ["cellmove.prom"]
    assert target.read_bytes() == b"old"
