"""The queue on SQLite: order, limits, leases, and the update from a new census."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cellmove.drain.item import JobResult, Stage, Task
from cellmove.drain.options import DrainOptions
from cellmove.drain.queue import LEASE_SECONDS, Limits, Queue
from cellmove.drain.request import DrainRequest
from cellmove.drain.tables import has_tables
from cellmove.engine.journal import Journal
from cellmove.engine.journal_open import open_journal

ANY = Limits(parallel=100)


def request(parallel: int) -> DrainRequest:
    return DrainRequest(DrainOptions(parallel=parallel), "cellmove drain-cell cell1", {"uuid-2": "cell2"})


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return open_journal(str(tmp_path / "journal.db"), lambda: "2026-03-02T12:00:00.000Z")


@pytest.fixture
def queue(journal: Journal) -> Queue:
    """Of a run that is at work."""
    queue = Queue(journal, "drain-1", "one")
    queue.prepare(request(2))
    return queue


@pytest.fixture
def other(journal: Journal, queue: Queue) -> Queue:
    """The same, for another run."""
    return Queue(journal, "drain-1", "two")


def tasks(*names: str, **values: object) -> list[Task]:
    return [replace(Task(name, name, position=at), **values) for at, name in enumerate(names)]  # type: ignore[arg-type]


def synchronise(
    queue: Queue, *servers: Task, is_alone: bool = True, now: float = 0.0, open_moves: tuple[str, ...] = ()
) -> list[Task]:
    placed = [replace(task, position=at) for at, task in enumerate(servers)]
    return queue.synchronise(placed, is_alone=is_alone, now=now, open_moves=open_moves)


def taken(queue: Queue, now: float = 0.0, limits: Limits = ANY, *, start: bool = True) -> list[str]:
    """Everything that can be taken at this moment, in its order."""
    found = []
    while task := queue.take(now, limits, start=start):
        found.append(task.server_id)
    return found


def stages(queue: Queue) -> dict[str, Stage]:
    return {task.server_id: task.stage for task in queue.tasks()}


def test_a_journal_that_never_held_a_drain(journal: Journal) -> None:
    queue = Queue(journal, "drain-1", "one")
    assert not has_tables(journal)
    assert (queue.tasks(), queue.counts(), queue.other_workers(0)) == ([], {}, [])
    assert (queue.control(), queue.request()) == ("", DrainRequest())
    assert not has_tables(journal), "reading creates no tables"


def test_the_newest_request_is_stored_beside_the_control_word(queue: Queue, other: Queue) -> None:
    assert (queue.request(), queue.control()) == (request(2), "")
    other.set_control("pause")
    assert queue.control() == "pause"
    assert queue.request() == request(2)
    queue.prepare(request(3))
    assert (other.request(), other.control()) == (request(3), "pause")
    queue.prepare()
    assert queue.request() == request(3)


def test_in_their_order_and_each_once(queue: Queue, other: Queue) -> None:
    synchronise(queue, *tasks("c", "a", "b"))
    assert queue.take(10.0, ANY, start=True) == Task("c", "c", position=0)
    found = queue.task("c")
    assert found is not None
    assert (found.stage, found.worker, found.lease_until, found.began, found.tries) == (
        Stage.MOVING,
        "one",
        10 + LEASE_SECONDS,
        10,
        1,
    )
    assert taken(other) == ["a", "b"]
    assert taken(queue) == []


def test_drains_do_not_see_each_other(journal: Journal, queue: Queue) -> None:
    elsewhere = Queue(journal, "drain-2", "one")
    elsewhere.prepare()
    synchronise(queue, *tasks("a"))
    synchronise(elsewhere, *tasks("a", "b"))
    assert taken(queue) == ["a"]
    assert taken(elsewhere) == ["a", "b"]


def test_nothing_is_begun_that_may_not(queue: Queue) -> None:
    synchronise(queue, *tasks("a"), *tasks("s", stage=Stage.SKIPPED), *tasks("r", stage=Stage.REFUSED))
    assert taken(queue, start=False) == []
    assert taken(queue) == ["a"]


@pytest.mark.parametrize(
    ("limits", "got"),
    [
        (Limits(parallel=9, per_source_host=1), ["a1", "b1"]),
        (Limits(parallel=9, per_source_host=2), ["a1", "a2", "b1", "b2"]),
        (Limits(parallel=9, per_project=1), ["a1", "a2", "a3"]),
        (Limits(parallel=9, per_project=1, per_source_host=1), ["a1", "b2"]),
        (Limits(parallel=9, per_target_host=1, hosts=("x", "y")), ["a1", "a2"]),
        (Limits(parallel=9, per_target_host=2, hosts=("x", "y")), ["a1", "a2", "b1", "b2"]),
    ],
)
def test_limits_by_host_and_project_hold_over_all_runs(
    queue: Queue, other: Queue, limits: Limits, got: list[str]
) -> None:
    many = tasks("a1", "a2", "b1", "b2", "a3")
    synchronise(queue, *(replace(each, host=each.name[0], project_id=f"p{each.name[1]}") for each in many))
    found = []
    for turn in (queue, other) * 3:
        task = turn.take(0.0, limits, start=True)
        found += [task.server_id] if task else []
    assert found == got
    queue.put(got[0], JobResult(Stage.MOVED), 1.0)
    assert other.take(1.0, limits, start=True) is not None, "as soon as one is over there is room again"


def test_how_many_at_once_is_each_runs_own(queue: Queue, other: Queue) -> None:
    """Or else the first of several machines would take every place, and the others stand idle."""
    synchronise(queue, *tasks("a", "b", "c", "d", "e"))
    limits = Limits(parallel=2)
    found = [(turn, turn.take(0.0, limits, start=True)) for turn in (queue, queue, queue, other, other, other)]
    assert [(turn is queue, task.server_id) for turn, task in found if task] == [
        (True, "a"), (True, "b"), (False, "c"), (False, "d"),
    ]  # fmt: skip
    queue.put("a", JobResult(Stage.MOVED), 1.0)
    assert other.take(1.0, limits, start=True) is None
    assert queue.take(1.0, limits, start=True) is not None


def test_a_target_host_counts_from_when_it_is_chosen(queue: Queue) -> None:
    synchronise(queue, *tasks("a", "b", "c"))
    limits = Limits(parallel=9, per_target_host=1, hosts=("x", "y"))
    assert taken(queue, limits=limits) == ["a", "b"]
    queue.set_target_host("a", "x")
    assert queue.target_host_counts("b") == {"x": 1}
    assert queue.target_host_counts("a") == {}
    queue.put("a", JobResult(Stage.WAITING), 0.0)
    assert taken(queue, limits=limits) == ["a"]
    found = queue.task("a")
    assert found is not None
    assert found.target_host == "", "another try is another choice"


def test_what_is_put_back_waits_until_it_is_due(queue: Queue) -> None:
    synchronise(queue, *tasks("a", "b"))
    assert taken(queue, limits=Limits(parallel=1)) == ["a"]
    queue.put("a", JobResult(Stage.WAITING, after=5.0), 100.0)
    assert taken(queue, 104.0) == ["b"]
    assert taken(queue, 105.0) == ["a"]
    found = queue.task("a")
    assert found is not None
    assert found.tries == 2
    queue.put("a", JobResult(Stage.WAITING, after=1000.0), 200.0)
    synchronise(queue, *tasks("a", "b"))
    assert taken(queue, 201.0) == ["a"], "a new run does not wait for what an old one put off"


def test_what_soaks_is_taken_when_it_is_due_and_before_anything_new(queue: Queue) -> None:
    synchronise(queue, *tasks("a", "b"))
    queue.take(0.0, ANY, start=True)
    queue.put("a", JobResult(Stage.SOAKING, after=60.0), 0.0)
    assert taken(queue, 59.0, start=False) == []
    assert taken(queue, 60.0) == ["a", "b"]
    assert stages(queue)["a"] is Stage.CONFIRMING
    queue.put("a", JobResult(Stage.SOAKING), 0.0)
    assert taken(queue, 60.0, Limits(parallel=1), start=False) == [], "b is under way"


# leases


def test_a_run_that_died_is_inherited_from_when_its_lease_is_over(queue: Queue, other: Queue) -> None:
    synchronise(queue, *tasks("a", "b"))
    assert queue.renew_leases(0.0) == 0.0
    queue.take(0.0, ANY, start=True)
    assert other.other_workers(LEASE_SECONDS - 1) == ["one"]
    assert taken(other, LEASE_SECONDS - 1, start=False) == []
    assert other.other_workers(LEASE_SECONDS) == []
    (orphan,) = [other.take(LEASE_SECONDS, ANY, start=False)]
    assert orphan is not None
    assert (orphan.server_id, orphan.stage, orphan.worker) == ("a", Stage.MOVING, "one")
    found = other.task("a")
    assert found is not None
    assert (found.worker, found.tries) == ("two", 1), "it is the same try"


def test_a_run_that_lives_renews_its_leases(queue: Queue, other: Queue) -> None:
    synchronise(queue, *tasks("a"))
    queue.take(0.0, ANY, start=True)
    for now in (LEASE_SECONDS / 2, LEASE_SECONDS, LEASE_SECONDS * 3 / 2):
        queue.renew_leases(now)
        assert taken(other, now + LEASE_SECONDS - 1, start=False) == []
        assert other.other_workers(now + LEASE_SECONDS - 1) == ["one"]


def test_a_run_that_slept_does_not_take_its_own_servers_for_orphans(queue: Queue, other: Queue) -> None:
    """The machine was asleep for an hour: the thread that works on it is still there."""
    synchronise(queue, *tasks("a", "b"), *tasks("c"))
    queue.take(0.0, ANY, start=True)
    assert taken(queue, 3600.0, Limits(parallel=1)) == [], "it counts as well"
    assert taken(other, 3600.0, start=False) == ["a"], "another run cannot know"


def test_a_run_that_leaves_gives_up_what_it_holds(queue: Queue, other: Queue) -> None:
    synchronise(queue, *tasks("a"))
    queue.renew_leases(0.0)
    queue.take(0.0, ANY, start=True)
    queue.release()
    assert other.other_workers(0.0) == []
    assert taken(other, 0.0, start=False) == ["a"]


def test_the_leases_of_all_runs_can_be_released(queue: Queue, other: Queue) -> None:
    synchronise(queue, *tasks("a"))
    queue.renew_leases(0.0)
    queue.take(0.0, ANY, start=True)
    other.release_all()
    assert other.other_workers(0.0) == []
    assert taken(other, 0.0, start=False) == ["a"]


def test_many_threads_take_each_server_once(journal: Journal, queue: Queue) -> None:
    synchronise(queue, *tasks(*(f"s{number}" for number in range(40))))
    found: list[str] = []

    def work(number: int) -> None:
        own = Queue(journal, "drain-1", f"w{number}")
        while task := own.take(0.0, Limits(parallel=3), start=True):
            found.append(task.server_id)
            assert sum(stage is Stage.MOVING for stage in stages(own).values()) <= 3
            own.put(task.server_id, JobResult(Stage.MOVED), 0.0)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(found) == sorted(f"s{number}" for number in range(40))


# failures


def test_failures_are_those_of_this_run(queue: Queue) -> None:
    synchronise(queue, *tasks("a", "b", "c", "d", "e"))
    taken(queue)
    for name, stage, when in (
        ("a", Stage.FAILED, 9), ("b", Stage.FAILED, 10), ("c", Stage.REVERTED, 11), ("d", Stage.UNVERIFIED, 12),
        ("e", Stage.REFUSED, 13),
    ):  # fmt: skip
        queue.put(name, JobResult(stage), float(when))
    assert queue.failures_since(10.0) == 3
    assert queue.counts() == {Stage.REVERTED: 1, Stage.UNVERIFIED: 1, Stage.FAILED: 2, Stage.REFUSED: 1}


# a new census


def put(stage: Stage, move_id: str = "") -> Callable[[Queue], None]:
    def do(queue: Queue) -> None:
        synchronise(queue, *tasks("a"))
        queue.take(0.0, ANY, start=True)
        queue.set_move("a", move_id)
        queue.put("a", JobResult(stage, "why"), 1.0)

    return do


@pytest.mark.parametrize(
    ("before", "open_moves", "there", "gone"),
    [
        (Stage.MOVING, (), Stage.MOVING, Stage.MOVING),
        (Stage.CONFIRMING, (), Stage.CONFIRMING, Stage.CONFIRMING),
        (Stage.SOAKING, (), Stage.SOAKING, Stage.SOAKING),
        (Stage.MOVED, (), Stage.WAITING, Stage.MOVED),
        (Stage.FAILED, (), Stage.WAITING, Stage.MOVING),
        (Stage.FAILED, ("a",), Stage.MOVING, Stage.MOVING),
        (Stage.UNVERIFIED, ("a",), Stage.MOVING, Stage.MOVING),
        (Stage.REVERTED, (), Stage.WAITING, Stage.GONE),
        (Stage.SKIPPED, (), Stage.WAITING, Stage.GONE),
        (Stage.REFUSED, (), Stage.WAITING, Stage.GONE),
        (Stage.WAITING, (), Stage.WAITING, Stage.GONE),
        (Stage.GONE, (), Stage.WAITING, Stage.GONE),
    ],
)
def test_a_new_census_changes_the_stage_of_a_server(
    queue: Queue, before: Stage, open_moves: tuple[str, ...], there: Stage, gone: Stage
) -> None:
    """Whether it is in the cell or not."""
    put(before, "move-1")(queue)
    synchronise(queue, *tasks("a"), open_moves=open_moves)
    assert stages(queue) == {"a": there}
    queue.put("a", JobResult(before), 1.0)
    synchronise(queue, open_moves=open_moves)
    assert stages(queue) == {"a": gone}


def test_a_failure_without_a_move_is_gone_with_its_server(queue: Queue) -> None:
    put(Stage.FAILED)(queue)
    synchronise(queue, now=5.0)
    found = queue.task("a")
    assert found is not None
    assert (found.stage, found.ended, found.code) == (Stage.GONE, 5.0, "gone")


def test_a_server_that_was_never_tried_is_told_of_once_when_it_goes(queue: Queue) -> None:
    synchronise(queue, *tasks("a", "b"))
    (gone,) = synchronise(queue, *tasks("b"))
    assert (gone.server_id, gone.stage) == ("a", Stage.GONE)
    assert "has left the cell" in gone.reason
    assert stages(queue) == {"a": Stage.GONE, "b": Stage.WAITING}
    assert synchronise(queue, *tasks("b")) == []


@pytest.mark.parametrize("stage", [Stage.MOVED, Stage.FAILED, Stage.UNVERIFIED, Stage.REVERTED])
def test_while_another_run_works_its_word_counts(queue: Queue, stage: Stage) -> None:
    put(stage, "move-1")(queue)
    synchronise(queue, *tasks("a"), is_alone=False)
    assert stages(queue) == {"a": stage}
    synchronise(queue, is_alone=False)
    assert stages(queue) == {"a": stage}


def test_what_is_known_of_earlier_tries_is_kept_beside_the_new_look(queue: Queue) -> None:
    put(Stage.FAILED, "move-1")(queue)
    synchronise(queue, *tasks("z"), *tasks("a", name="renamed", host="h2", disk_gb=7))
    found = queue.task("a")
    assert found is not None
    assert (found.name, found.host, found.disk_gb, found.position) == ("renamed", "h2", 7, 1)
    assert (found.tries, found.move_id, found.reason) == (1, "move-1", "")


def test_ten_thousand_servers(queue: Queue) -> None:
    many = tasks(*(f"{number:05}" for number in range(10_000)))
    synchronise(queue, *many)
    synchronise(queue, *many[5_000:])
    assert queue.counts() == {Stage.GONE: 5_000, Stage.WAITING: 5_000}
    task = queue.take(0.0, ANY, start=True)
    assert task is not None
    assert task.server_id == "05000"
