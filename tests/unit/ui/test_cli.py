"""The command line with a session that only pretends: verbs, options, formats, exit codes, signals."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from click.testing import Result

from cellmove import operations
from cellmove.checks.preflight import CheckResult, Level
from cellmove.core.errors import (
    CallFailed,
    CannotConnect,
    Interrupted,
    Locked,
    Refused,
    RollbackFailed,
    RolledBack,
    Stopped,
    Unreachable,
    Usage,
)
from cellmove.core.move import Entry, Move, Phase, State, Step
from cellmove.core.request import Destination, MoveRequest
from cellmove.engine.events import Event, EventKind
from cellmove.ui.group import EXIT_CODES
from tests.support.commands import typed

VERBS = ("prep-dest", "prep-source", "finish", "confirm", "revert")


SUMMARY = {
    "server_id": "uuid-1", "server_name": "web-1", "status": "ACTIVE", "kind": "resize", "source_cell": "",
    "source_cell_uuid": "", "source_host": "", "target_cell": "", "target_cell_uuid": "", "target_hosts": [],
    "flavor_from": "", "flavor_to": "", "backing": "", "active": False, "ports": 0, "volumes": 0, "copied": {}, "lost": [],
    "transfer": "", "transfer_why": "",
}  # fmt: skip
"""What the real session's plan says of a server about which little can be found out."""


@dataclass
class Report:
    """What the real session's PlanReport is."""

    move: Move | None
    summary: dict[str, Any] = field(default_factory=lambda: dict(SUMMARY))
    checks: tuple[CheckResult, ...] = ()
    request: MoveRequest | None = None

    @property
    def refused(self) -> bool:
        return any(check.level is Level.REFUSAL for check in self.checks)


def a_move(state: State = State.PLANNED, move_id: str = "m1") -> Move:
    plan = {"source_cell": "cell1", "source_host": "compute-1"}
    return Move(move_id, "uuid-1", "web-1", "resize", state, "2026-01-01T10:00:00Z", "2026-01-01T10:00:00Z", plan)


@dataclass
class Fake:
    """Stand in for the modules of cellmove.operations and record their calls."""

    asked: list[tuple[Any, ...]] = field(default_factory=list)
    error: BaseException | None = None
    report: Report = field(default_factory=lambda: Report(a_move()))
    moves: list[Move] = field(default_factory=lambda: [a_move()])
    settings: Any = None
    observer: Callable[[Event], None] | None = None
    interrupted: Callable[[], int] | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def modules(self) -> dict[str, ModuleType]:
        """Return the modules that it stands in for, by their last names."""
        functions = {
            "context": ("open_session",),
            "find": ("find_move",),
            "run": ("run_step", "run_to_finish"),
            "recover": ("resume", "resume_all", "rollback"),
            "planning": ("plan", "move_for"),
        }
        made = {}
        for module, names in functions.items():
            made[module] = ModuleType(f"cellmove.operations.{module}")
            for name in names:
                setattr(made[module], name, getattr(self, name))
        return made

    def open_session(
        self, settings: Any, observer: Callable[[Event], None], *, interrupted: Callable[[], int], **more: Any
    ) -> Any:
        self.settings, self.observer, self.interrupted, self.more = settings, observer, interrupted, more
        return SimpleNamespace(journal=self, observer=observer)

    def entries_of_moves(self, move_ids: list[str]) -> dict[str, list[Entry]]:
        return {move_id: self.entries_of(move_id) for move_id in move_ids}

    def entries_of(self, move_id: str) -> list[Entry]:
        times = ("2026-01-01T10:00:00Z", "2026-01-01T10:00:01Z")
        return [Entry(move_id, 1, "prep-dest", "claim", Phase.DONE, {}, {"target_cell": "cell2"}, "", *times)]

    def all_moves(self) -> list[Move]:
        return self.moves

    def open_moves(self) -> list[Move]:
        return [move for move in self.moves if move.is_open]

    def _asked(self, *what: Any) -> None:
        self.asked.append(what)
        if self.error is not None:
            raise self.error

    def plan(self, _session: Any, request: MoveRequest, **how: Any) -> Report:
        self._asked("plan", request, how)
        return self.report

    def move_for(self, _session: Any, request: MoveRequest) -> Report:
        self._asked("move_for", request)
        return self.report

    def move(self, move_id: str) -> Move | None:
        return next((move for move in self.moves if move.id == move_id), None)

    def find(self, reference: str) -> list[Move]:
        return [move for move in self.moves if reference in (move.id, move.server_id, move.server_name)]

    def find_move(self, _session: Any, reference: str) -> Move:
        self.asked.append(("find_move", reference))
        return self.moves[0]

    def run_step(self, _session: Any, move: Move, step: Step, **_more: Any) -> Move:
        assert self.observer is not None
        self.observer(Event(EventKind.STEP_STARTED, move.id, move.server_name, step=step.value))
        self._asked("run_step", move.id, step)
        return a_move(State.DEST_PREPARED)

    def run_to_finish(self, _session: Any, move: Move, *, confirm: bool, hold: Any, request: MoveRequest) -> Move:
        assert (request.confirm, request.hold) == (confirm, bool(hold))
        self._asked("run_to_finish", move.id, confirm, *([hold] if hold else []))
        return a_move(State.CONFIRMED if confirm else State.FINISHED)

    def resume(self, _session: Any, move: Move, *, host_restarted: bool) -> Move:
        self._asked("resume", move.id, host_restarted)
        return a_move(State.FINISHED)

    def resume_all(self, _session: Any) -> list[Move]:
        self._asked("resume_all")
        return [a_move(State.FINISHED), a_move(State.PLANNED, "m2")]

    def rollback(self, _session: Any, move: Move, *, host_restarted: bool) -> Move:
        self._asked("rollback", move.id, host_restarted)
        return a_move(State.ROLLED_BACK)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fake:
    fake = Fake()
    for name, module in fake.modules().items():
        monkeypatch.setitem(sys.modules, f"cellmove.operations.{name}", module)
        monkeypatch.setattr(operations, name, module, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("CELLMOVE_DEBUG", raising=False)
    for name in list(os.environ):
        if name.startswith(("CELLMOVE_", "OS_", "XDG_")):
            monkeypatch.delenv(name)
    return fake


def run(*arguments: str) -> Result:
    result = typed(*arguments)
    assert "Traceback" not in result.output
    assert "\x1b" not in result.output
    return result


# the verbs call what they name


@pytest.mark.parametrize("verb", VERBS)
def test_a_step(fake: Fake, verb: str) -> None:
    result = run(verb, "web-1")
    assert result.exit_code == 0
    assert fake.asked == [("find_move", "web-1"), ("run_step", "m1", Step(verb))]
    assert "state   dest-prepared" in result.stdout
    assert "next    cellmove prep-source m1" in result.stdout
    assert f"web-1 {verb}: started" in result.stderr


def test_plan(fake: Fake) -> None:
    result = run("plan", "web-1", "m1.large", "--cell", "cell2", "--force-locked")
    assert result.exit_code == 0
    request = MoveRequest("web-1", "m1.large", Destination("cell2"), is_stepwise=True, force_locked=True)
    assert fake.asked == [("plan", request, {"open_move": True})]
    assert "next  cellmove resume m1" in result.stdout  # its first action is done


def test_losses_are_named_one_by_one_or_together(fake: Fake) -> None:
    fake.report = Report(None)
    result = run("plan", "web-1", "--accept-loss", "swap, ephemeral", "--accept-loss=swap", "--dry-run")
    assert fake.asked[0][1].accept_loss == ("swap", "ephemeral")
    assert "cellmove plan web-1 --accept-loss swap,ephemeral\n" in result.stdout


def test_yes_is_kept_and_without_a_terminal_there_is_no_prompt(fake: Fake) -> None:
    for words in (("prep-dest", "web-1", "--yes"), ("migrate", "web-1", "-y")):
        assert run(*words).exit_code == 0
        assert fake.more["consent"].yes
        assert fake.more["consent"].prompt is None
    run("finish", "web-1")
    assert not fake.more["consent"].yes


def test_a_dry_run_opens_nothing_and_names_the_real_command(fake: Fake) -> None:
    fake.report = Report(None)
    result = run("plan", "my server", "--host", "compute-11", "--dry-run")
    assert fake.asked[0][2] == {"open_move": False}
    assert "cellmove plan 'my server' --host compute-11\n" in result.stdout
    assert run("plan", "web-1", "--dry-run", "-f", "value").stdout == "-\tnot recorded\tcellmove plan web-1\n"


@pytest.mark.parametrize("form", ["table", "json"])
def test_a_refused_plan_shows_all_reasons_and_exits_5(fake: Fake, form: str) -> None:
    reasons = (
        CheckResult("locked", Level.REFUSAL, "it is locked", "unlock it"),
        CheckResult("up", Level.REFUSAL, "compute is down"),
    )
    fake.report = Report(None, checks=reasons)
    result = run("plan", "web-1", "-f", form)
    assert result.exit_code == 5
    for words in ("it is locked", "unlock it", "compute is down"):
        assert words in result.stdout
    assert result.stderr.splitlines()[0] == "web-1 cannot be moved: 2 checks refused"
    assert result.stderr.splitlines()[-1] == "next: cellmove plan web-1"
    if form == "json":
        document = json.loads(result.stdout)
        assert document["refused"]
        assert document["error"]["exit_code"] == 5


@pytest.mark.parametrize("confirm", [True, False])
def test_resize_and_migrate_run_to_the_end(fake: Fake, confirm: bool) -> None:
    more = ["--confirm"] if confirm else []
    assert run("resize", "web-1", "m1.large", "--cell", "cell2", *more).exit_code == 0
    assert run("migrate", "web-1", "--host", "compute-11", "--max-hosts", "2", *more).exit_code == 0
    assert fake.asked == [
        ("move_for", MoveRequest("web-1", "m1.large", Destination("cell2"), confirm=confirm)),
        ("run_to_finish", "m1", confirm),
        ("move_for", MoveRequest("web-1", "", Destination(host="compute-11"), confirm=confirm, max_hosts=2)),
        ("run_to_finish", "m1", confirm),
    ]


def test_a_refused_migrate_runs_nothing(fake: Fake) -> None:
    fake.report = Report(None, checks=(CheckResult("locked", Level.REFUSAL, "it is locked"),))
    result = run("migrate", "web-1", "--confirm")
    assert result.exit_code == 5
    assert [asked[0] for asked in fake.asked] == ["move_for"]
    assert "next: cellmove migrate web-1 --confirm" in result.stderr


def test_warnings_are_told_before_a_migrate_runs(fake: Fake) -> None:
    fake.report = Report(a_move(), checks=(CheckResult("drive", Level.WARNING, "the config drive is rebuilt"),))
    result = run("migrate", "web-1")
    assert result.exit_code == 0
    assert "warning: the config drive is rebuilt" in result.stderr


def test_resume_and_rollback(fake: Fake) -> None:
    assert run("resume", "m1").exit_code == 0
    assert run("rollback", "m1", "--host-restarted").exit_code == 0
    everything = run("resume", "--all", "-f", "value")
    assert everything.stdout.splitlines()[1].startswith("m2\tplanned\t")
    assert [asked[0] for asked in fake.asked] == ["find_move", "resume", "find_move", "rollback", "resume_all"]
    assert [asked[-1] for asked in fake.asked if asked[0] in ("resume", "rollback")] == [False, True]
    assert "one move" in run("resume", "--all", "--host-restarted").stderr


def test_list_shows_open_moves_unless_told_otherwise(fake: Fake) -> None:
    fake.moves = [a_move(), a_move(State.CONFIRMED, "m2")]
    assert [line.split("\t")[0] for line in run("list", "-f", "value").stdout.splitlines()] == ["m1"]
    assert [line.split("\t")[0] for line in run("list", "--all", "-f", "value").stdout.splitlines()] == ["m1", "m2"]
    assert fake.asked == []
    fake.moves = []
    assert json.loads(run("list", "-f", "json").stdout) == {"schema_version": 1, "moves": []}


def test_show(fake: Fake) -> None:
    result = run("show", "web-1")
    assert "claim" in result.stdout
    assert result.stderr == ""


# formats


@pytest.mark.parametrize(
    "arguments", [("-f", "json", "show", "m1"), ("show", "m1", "-f", "json"), ("show", "-f", "json", "m1")]
)
def test_the_format_may_stand_before_and_after_the_verb(fake: Fake, arguments: tuple[str, ...]) -> None:
    document = json.loads(run(*arguments).stdout)
    assert set(document) == {
        "schema_version", "move", "state", "server", "kind", "source", "target", "created_at", "updated_at", "accepted_losses", "busy_step", "next", "tried",
        "steps",
    }  # fmt: skip
    assert document["target"]["cell"] == "cell2"
    assert document["steps"][0]["actions"][0] == {
        "action": "claim", "phase": "done", "started_at": "2026-01-01T10:00:00Z", "finished_at": "2026-01-01T10:00:01Z",
        "error": None,
    }  # fmt: skip


def test_the_later_format_wins(fake: Fake) -> None:
    assert run("-f", "json", "list", "-f", "value").stdout.startswith("m1\t")


@pytest.mark.parametrize("arguments", [("-q", "prep-dest", "m1"), ("prep-dest", "m1", "--quiet")])
def test_quiet_leaves_the_result_and_errors(fake: Fake, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.stderr == ""
    assert "m1" in result.stdout
    fake.error = Locked("another run", state="untouched", next_command="cellmove show m1")
    assert run(*arguments).stderr == "another run; untouched; next: cellmove show m1\n"


def test_options_reach_the_settings(fake: Fake, tmp_path: Path) -> None:
    conf, config = tmp_path / "nova.conf", tmp_path / "own.toml"
    conf.write_text("[DEFAULT]\ntransport_url = rabbit://host/\n")
    config.write_text("")
    journal = str(tmp_path / "j.db")
    result = run(
        "--nova-conf", str(conf), "--os-cloud", "lab", "--journal", journal, "--config", str(config), "list"
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert (fake.settings.os_cloud, fake.settings.journal) == ("lab", journal)
    assert fake.settings.transport_url == "rabbit://host/"
    assert run("--config", str(tmp_path / "missing.toml"), "list").exit_code == 2


# errors


ERRORS = [
    (RolledBack("no", state="as before", next_command="cellmove plan web-1"), 1),
    (Usage("which?"), 2),
    (Stopped("stopped", next_command="cellmove resume m1"), 3),
    (Unreachable("no route"), 4),
    (Refused("not its turn", next_command="cellmove prep-dest m1"), 5),
    (Locked("another run"), 6),
    (RollbackFailed("by hand: this\nand that"), 7),
    (Interrupted("interrupted", signal_number=signal.SIGINT, next_command="cellmove resume m1"), 130),
    (Interrupted("interrupted", signal_number=signal.SIGTERM), 143),
    (CannotConnect("no route to cell2"), 4),
    (CallFailed("HTTP 500"), 3),
]


@pytest.mark.parametrize(("error", "code"), ERRORS)
def test_every_error_has_its_code_and_its_lines(fake: Fake, error: Exception, code: int) -> None:
    fake.error = error
    result = run("finish", "web-1", "-q", "-f", "json")
    assert result.exit_code == code
    assert str(code if code != 143 else 130) in EXIT_CODES
    document = json.loads(result.stdout)["error"]
    assert document["exit_code"] == code
    assert document["message"] == str(error)
    lines = result.stderr.splitlines()
    assert lines[0] == str(error).splitlines()[0]
    if document["next"]:
        assert lines[-1] == f"next: {document['next']}"
    assert run("finish", "web-1").stdout == ""


def test_a_fault_of_ours_is_no_traceback_and_shows_no_foreign_text(fake: Fake) -> None:
    fake.error = ValueError("mysql://user:secret@host")
    result = run("finish", "web-1")
    assert result.exit_code == 3
    assert "secret" not in result.output
    assert "this is a fault in cellmove: ValueError at " in result.stderr
    assert result.stderr.endswith("state: m1 of web-1 is planned, in prep-dest\nnext: cellmove resume m1\n")


def test_cellmove_debug_shows_a_fault_without_secrets(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLMOVE_DEBUG", "1")
    fake.error = ValueError("details of mysql://user:secret@host")
    result = typed("finish", "web-1")
    assert result.exit_code == 3
    assert "Traceback" in result.stderr
    assert "ValueError: details of mysql://user:***@host" in result.stderr
    assert "next: cellmove resume m1" in result.stderr


def test_several_matches_are_listed(fake: Fake) -> None:
    fake.error = Usage("'web' means several moves; name one:\n  m1  web  uuid-1\n  m2  web  uuid-2")
    result = run("finish", "web", "-q")
    assert result.exit_code == 2
    assert [line.strip().split()[0] for line in result.stderr.splitlines()[1:]] == ["m1", "m2"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("finish",),
        ("nosuchverb",),
        ("plan", "web-1", "--host", "h", "--cell", "c"),
        ("migrate", "web-1", "--host", "h", "--cell", "c"),
        ("resume",),
        ("resume", "m1", "--all"),
        ("list", "-f", "xml"),
        ("--nosuchoption",),
    ],
)
def test_a_command_line_that_makes_no_sense(fake: Fake, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Error" in result.stderr
    assert fake.asked == []


def test_also_a_wrong_command_line_is_answered_in_json(fake: Fake) -> None:
    result = run("-f", "json", "resume")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["exit_code"] == 2


# help


def test_help_and_version_need_nothing(fake: Fake) -> None:
    assert run("--version").stdout == f"cellmove {importlib.metadata.version('cellmove')}\n"
    text = run("--help").stdout
    names = [
        line.split()[0] for line in text.split("Commands:")[1].splitlines() if line.startswith("  ") and line.strip()
    ]
    steps = [*VERBS[:3], "verify", *VERBS[3:]]
    assert names[:15] == ["plan", *steps, "resize", "migrate", "resume", "rollback", "adopt", "audit", "list", "show"]
    assert "..." not in text.split("Commands:")[1]
    assert run("plan", "-h").exit_code == 0


def test_help_imports_nothing_heavy() -> None:
    code = textwrap.dedent(
        """
        import sys
        from cellmove.cli import cli
        try:
            cli(["plan", "--help"])
        except SystemExit:
            pass
        heavy = {"openstack", "sqlalchemy", "oslo_messaging", "rich", "keystoneauth1", "asyncio", "prometheus_client"} & set(sys.modules)
        sys.exit(" ".join(sorted(heavy)) or 0)
        """
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# signals and pipes, with a real process


SLOW = """
import sys, time, types
import cellmove.operations
from cellmove.core.errors import Interrupted
from cellmove.engine.events import Event, EventKind
from cellmove.core.move import Move, State
module = types.ModuleType("fake")
move = Move("m1", "uuid-1", "web-1", "resize", State.PLANNED, "", "", {})
def open_session(settings, observer, *, interrupted, **more):
    entries = types.SimpleNamespace(entries_of_moves=lambda _ids: {}, open_moves=lambda: [move] * 5000)
    return types.SimpleNamespace(observer=observer, interrupted=interrupted, journal=entries)
def find_move(session, reference):
    if reference == "unfound":
        print("ready", file=sys.stderr, flush=True)
        time.sleep(30)
    return move
def run_step(session, move, step, **more):
    session.observer(Event(EventKind.STEP_STARTED, "m1", "web-1", step=str(step)))
    print("ready", file=sys.stderr, flush=True)
    for _ in range(1000):
        time.sleep(0.01)
        if session.interrupted() and move.server_name != "stubborn":
            time.sleep(STUBBORN)
            raise Interrupted("stopped here", signal_number=session.interrupted(), next_command="cellmove resume m1")
module.open_session, module.find_move, module.run_step = open_session, find_move, run_step
for name in ("context", "find", "run", "recover"):
    sys.modules[f"cellmove.operations.{name}"] = module
    setattr(cellmove.operations, name, module)
from cellmove.cli import main
main()
"""


def start(*arguments: str, stubborn: float = 0.0) -> subprocess.Popen[str]:
    code = SLOW.replace("STUBBORN", str(stubborn))
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    assert process.stderr is not None
    while process.stderr.readline().strip() != "ready":
        assert process.poll() is None
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_lets_the_current_action_finish(number: signal.Signals) -> None:
    process = start("finish", "web-1")
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert out == ""
    assert "Finishing the current action. Press Ctrl-C again to quit immediately." in err
    assert err.endswith("stopped here\nnext: cellmove resume m1\n")


def test_the_second_signal_leaves_at_once() -> None:
    process = start("finish", "web-1", stubborn=30)
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    assert "Finishing" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    _out, err = process.communicate(timeout=5)
    assert process.returncode == 143
    assert "The journal records where" in err


def test_before_any_action_the_first_signal_ends_the_process() -> None:
    process = start("finish", "unfound")
    process.send_signal(signal.SIGINT)
    _out, err = process.communicate(timeout=5)
    assert process.returncode == 130
    assert err == "interrupted by SIGINT before any action started\n"


def test_a_reader_that_goes_away_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW.replace("STUBBORN", "0"), "list", "-f", "json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=20) == 0


def test_a_full_disk_is_reported_and_is_no_fault_of_cellmove() -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", SLOW.replace("STUBBORN", "0"), "list", "-f", "json"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert ended.returncode == 3
    assert ended.stderr.splitlines()[0] == "cannot write the result to stdout: No space left on device"
