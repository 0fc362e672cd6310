"""A whole cloud and a whole cellmove in one process, put back in milliseconds: what every proof runs on.

Nothing of cellmove is replaced but its clock. What leaves it (HTTP, SQL, calls over the buses) passes
through here, so that a proof can count it, break it, or end the process in front of it.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import pickle
import shlex
import sqlite3
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import requests
import sqlalchemy
from sqlalchemy import event, exc

from cellmove.core import settings as settings_module
from cellmove.core.clock import Clock
from cellmove.core.errors import CellmoveError
from cellmove.core.move import Entry, Move, Phase, State, Step
from cellmove.core.policy import Consent
from cellmove.core.request import Destination, MoveRequest
from cellmove.engine.journal_open import open_journal
from cellmove.gateway import Gateway
from cellmove.hosts import bus as calls_over_buses
from cellmove.operations import planning
from cellmove.operations import recover as recover_module
from cellmove.operations.context import Session
from cellmove.operations.find import find_move
from cellmove.operations.run import run_step, run_to_finish
from cellmove.sandbox import __main__ as process
from cellmove.sandbox import buses, rest, seed
from cellmove.sandbox.compute_call import Call, Work
from cellmove.sandbox.instances import Instances
from cellmove.sandbox.store import Cloud, Refusal, files
from tests.support.folders import own_folder
from tests.support.sandbox import disk_requests
from tests.support.sandbox.fake_ssh import Pieces, copy_files, make_ssh, put_files_back


def _share_compiled_statements() -> None:
    """Every run opens the journal anew; what SQLAlchemy has compiled for one is good for all."""
    create, shared = sqlalchemy.create_engine, {}

    def create_engine(url: Any, **options: Any) -> Any:
        engine = create(url, **options)
        if str(url).endswith("journal.db"):
            first = shared.setdefault("journal", engine)
            # What is compiled is kept by the dialect that it was compiled for.
            engine.dialect, engine._compiled_cache = first.dialect, first._compiled_cache
        return engine

    sqlalchemy.create_engine = create_engine


BASE = "http://cloud.sandbox"
BEGIN = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)
QUEUED_SECONDS = 5.0
"""How long a call waits in a host's queue, for the fault ``queued``."""


class Crash(BaseException):
    """The process ends here; nothing in cellmove catches it."""


class DriverError(Exception):
    """What a database driver raises: an error number and words."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit code, and the error if there was one. Code -9: it was killed.

    :param failed_calls: how many of its outgoing calls were made to go wrong
    """

    command: tuple[str, ...]
    code: int
    message: str = ""
    state: str = ""
    next_command: str = ""
    effects: int = 0
    failed_calls: int = 0

    @property
    def text(self) -> str:
        """One line for a report."""
        words = f": {self.message}" if self.message else ""
        return f"{shlex.join(self.command)} -> {self.code}{words}".replace("\n", " / ")


@dataclass(frozen=True)
class Seen:
    """One outgoing call, as the taps see it.

    :param kind: ``http``, ``sql``, ``rpc`` or ``wire``
    """

    number: int
    kind: str
    text: str
    writes: bool


@dataclass
class Snapshot:
    """Everything that there is: the world, the databases, the journal and the time.

    :param files: the hosts' disks; None where disks are no files
    """

    world: bytes
    databases: dict[str, bytes]
    journal: bytes
    seconds: float
    ids: int
    files: dict[str, Pieces] | None


Tap = Callable[[Seen], str]
"""Told of every call before it is made; says what is to go wrong with it ("" for nothing)."""


@dataclass
class Taps:
    """What a proof listens to, and breaks."""

    on_call: Tap = lambda _seen: ""
    on_journal: Callable[[str, str], None] = lambda _point, _action: None
    numbers: Iterator[int] = field(default_factory=itertools.count)
    calls: list[Seen] = field(default_factory=list)
    effects: int = 0
    failed_calls: int = 0
    unannounced: list[str] = field(default_factory=list)


def copy_databases(paths: Iterable[Path]) -> dict[str, bytes]:
    """SQLite databases by the names of their files, whoever has them open."""
    databases = {}
    for path in paths:
        with (
            contextlib.closing(sqlite3.connect(path)) as source,
            contextlib.closing(sqlite3.connect(":memory:")) as copy,
        ):
            source.backup(copy)
            databases[path.name] = copy.serialize()
    return databases


def put_databases_back(folder: Path, databases: Mapping[str, bytes]) -> None:
    """What :func:`copy_databases` copied, into files that others may have open."""
    for name, content in databases.items():
        with (
            contextlib.closing(sqlite3.connect(":memory:")) as copy,
            contextlib.closing(sqlite3.connect(folder / name)) as target,
        ):
            copy.deserialize(content)
            copy.backup(target)


def newest_move(journal: Path) -> Move:
    """The move that was opened last."""
    query = "SELECT id, server_id, server_name, kind, state, created_at, updated_at FROM moves ORDER BY rowid DESC"
    with contextlib.closing(sqlite3.connect(journal)) as connection:
        row = connection.execute(query).fetchone()
    return Move(*row[:4], State(row[4]), *row[5:])


class Harness:
    """The cloud, and cellmove beside it."""

    def __init__(self) -> None:
        self.folder = own_folder("cellmove-harness-")
        self.seconds = 0.0
        self.ids = 0
        self.beaten = -100.0
        self.taps = Taps()
        self.working: list[tuple[Call, Work]] = []
        self.queued: list[tuple[float, dict[str, Any]]] = []
        self.reader: sqlite3.Connection | None = None
        self.without_intent = ""
        self.cloud = Cloud(files(self.folder), lambda: self._utc().replace(tzinfo=None, microsecond=0))
        self.instances = Instances(self.folder / "disks", alike=True)
        self.ssh = make_ssh(self.folder / "ssh", self.instances.folder)
        self.cloud.instances = self.instances
        seed.make_cloud(self.cloud, BASE.replace("http://", "sandbox://") + "/bus")
        self.app = rest.make_app(self.cloud, BASE)
        self.hold: buses.Hold | None = None
        rest.add_bus(self.app, self.cloud, (0.0, 0.0))
        environment = process.write_configuration(self.folder, BASE, files(self.folder), self.instances)
        own = {"CELLMOVE_JOURNAL": str(self.folder / "journal.db"), "CELLMOVE_TRANSFER": "image"}
        self.settings = settings_module.load({}, environment | own)
        self.clock = Clock(
            utc_now=self._utc, monotonic=lambda: self.seconds, sleep=self.sleep, new_uuid=self._uuid,
            new_token=lambda: self._uuid()[:6],
        )  # fmt: skip
        self.said: list[Any] = []
        self.consent: Consent | None = None
        _share_compiled_statements()
        calls_over_buses.PROBE_TTL_SECONDS = 0.0  # the harness has its own clock, so each call probes the broker
        requests.adapters.HTTPAdapter.send = self._http  # type: ignore[method-assign,assignment]
        disk_requests.tap(self)
        self._environment = environment
        self.gateway = self._open_gateway()

    # time

    def _utc(self) -> datetime.datetime:
        return BEGIN + datetime.timedelta(seconds=self.seconds)

    def _uuid(self) -> str:
        self.ids += 1
        return str(uuid.uuid5(uuid.NAMESPACE_OID, str(self.ids)))

    def sleep(self, seconds: float) -> None:
        """Let time pass, for the cloud too: hosts go on with their work."""
        self.seconds += seconds
        self.tick()

    def tick(self, steps: int = 1) -> None:
        """One beat of the cloud."""
        if self.seconds - self.beaten > 20:
            self.beaten = self.seconds
            seed.heartbeat(self.cloud)
        self._take_queued(lambda _host, due: due <= self.seconds)
        for pair in list(self.working):
            with contextlib.suppress(StopIteration, Refusal):
                for _ in range(steps):
                    next(pair[1])
                continue
            self.working.remove(pair)

    def work_to_the_end(self) -> None:
        """Whatever a host still does, it does now."""
        self._take_queued(lambda _host, _due: True)
        while self.working:
            self.tick(steps=100)

    # snapshots

    def save(self) -> Snapshot:
        """Keep everything as it is now."""
        databases = copy_databases(path for path in self.folder.glob("*.db") if path.name != "journal.db")
        journal = self.folder / "journal.db"
        return Snapshot(
            pickle.dumps(self.cloud.world), databases, journal.read_bytes() if journal.exists() else b"",
            self.seconds, self.ids, copy_files(self.instances.folder) if self.cloud.instances else None,
        )  # fmt: skip

    def restore(self, snapshot: Snapshot) -> None:
        """Put everything back."""
        self._stop_reading()
        self.taps, self.working, self.queued, self.hold, self.said = Taps(), [], [], None, []
        self.cloud.world = pickle.loads(snapshot.world)  # noqa: S301 - our own
        self.seconds, self.ids, self.beaten = snapshot.seconds, snapshot.ids, snapshot.seconds
        put_databases_back(self.folder, snapshot.databases)
        self.cloud.instances = self.instances if snapshot.files is not None else None
        if snapshot.files is not None:
            put_files_back(self.instances.folder, snapshot.files)
        for name in ("journal.db", "journal.db-wal", "journal.db-shm"):
            (self.folder / name).unlink(missing_ok=True)
        if snapshot.journal:
            (self.folder / "journal.db").write_bytes(snapshot.journal)

    # cellmove

    def _open_gateway(self) -> Gateway:
        import os

        gateway = Gateway(self.settings)
        os.environ.update({name: value for name, value in self._environment.items() if name.startswith("OS_")})
        os.environ.update(self.ssh.environment)
        for engine in (gateway.api_engine, *(gateway.database(cell).engine for cell in gateway.cells)):
            self._tap_database(engine)
        _ = gateway.admin, gateway.service, gateway.api_bus, [gateway.bus(cell) for cell in gateway.cells]
        return gateway

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """A run of cellmove: its own opening of the journal."""
        journal = open_journal(self.settings.journal, self.clock.text)
        for name, before, after in (
            ("intend", "before-intent", "after-intent"),
            ("done", "after-effect", "after-done"),
            ("undoing", "before-undoing", "after-undoing"),
            ("undone", "after-undo", "after-undone"),
            ("failed", "before-failed", "after-failed"),
        ):
            self._tap_journal(journal, name, before, after)
        try:
            yield Session(
                self.settings, journal, self.gateway, self.clock, self.said.append, lambda: 0, self.folder / "locks",
                consent=self.consent or Consent(),
            )  # fmt: skip
        finally:
            self._stop_reading()
            journal.engine.dispose()

    def _tap_journal(self, journal: Any, name: str, before: str, after: str) -> None:
        method = getattr(journal, name)

        def tapped(*arguments: Any) -> Any:
            action = arguments[2] if name == "intend" else arguments[0].action
            if action == self.without_intent and name in ("intend", "done"):
                return self._unannounced(journal, name, *arguments)
            self.taps.on_journal(before, action)
            result = method(*arguments)
            self.taps.on_journal(after, action)
            return result

        object.__setattr__(journal, name, tapped)

    def _unannounced(self, journal: Any, name: str, *arguments: Any) -> Any:
        """The mutant: an intent that is written only when the action is done."""
        if name == "intend":
            move_id, step, action, intent, *_generations = arguments
            return Entry(move_id, 0, step, action, Phase.INTENT, intent, {}, "", self.clock.text(), "")
        entry, result = arguments
        late = type(journal).intend(journal, entry.move_id, entry.step, entry.action, entry.intent)
        return type(journal).done(journal, late, result)

    def run(self, *command: str) -> Outcome:
        """Type a command: one of the verbs, and a move or server."""
        verb, what = command[0], command[1]
        self.gateway.sent_calls.clear()  # every command is a process of its own
        begun, failed_before = self.taps.effects, self.taps.failed_calls
        code, error = 0, None
        try:
            with self.session() as session:
                self._verb(session, verb, what, command[2:])
        except CellmoveError as failure:
            code, error = failure.exit_code, failure
        except Crash:
            code = -9
        effects, failed_calls = self.taps.effects - begun, self.taps.failed_calls - failed_before
        if error is None:
            return Outcome(command, code, effects=effects, failed_calls=failed_calls)
        return Outcome(command, code, error.message, error.state, error.next_command, effects, failed_calls)

    def _verb(self, session: Session, verb: str, what: str, more: tuple[str, ...]) -> None:
        transfer = more[more.index("--transfer") + 1] if "--transfer" in more else ""
        if verb in ("resize", "migrate"):
            flavor = more[0] if verb == "resize" else ""
            request = MoveRequest(what, flavor, Destination("cell2"), confirm="--confirm" in more, transfer=transfer)
            report = planning.move_for(session, request)
            if report.move is None:
                raise AssertionError([check for check in report.checks if check.level == "refusal"])
            run_to_finish(session, report.move, confirm=request.confirm, request=request)
        elif verb == "plan":
            flavor = more[0] if more and not more[0].startswith("--") else ""
            request = MoveRequest(what, flavor, Destination("cell2"), is_stepwise=True, transfer=transfer)
            report = planning.plan(session, request, open_move=True)
            if report.move is None:
                raise AssertionError([check for check in report.checks if check.level == "refusal"])
        elif verb == "show":
            find_move(session, what)
        elif verb in ("resume", "rollback"):
            move = find_move(session, what)
            again = recover_module.resume if verb == "resume" else recover_module.rollback
            again(session, move, host_restarted="--host-restarted" in more)
        else:
            run_step(session, find_move(session, what), Step(verb))

    def move(self) -> Move:
        """The newest move in the journal, read past everything that guards it."""
        return newest_move(self.folder / "journal.db")

    def state(self) -> State:
        """How far it has come."""
        return self.move().state

    # taps

    def see(self, kind: str, text: str, *, writes: bool) -> str:
        seen = Seen(next(self.taps.numbers), kind, text, writes)
        self.taps.calls.append(seen)
        wrong = self.taps.on_call(seen)
        self.taps.failed_calls += wrong not in ("", "slow")
        if writes and wrong not in ("refused", "error", "conflict"):
            self._effect(text)
        return wrong

    def _effect(self, text: str) -> None:
        """Something is about to be changed; the journal has to know of it already."""
        self.taps.effects += 1
        if self.reader is None:
            self.reader = sqlite3.connect(self.folder / "journal.db", check_same_thread=False)
        known = self.reader.execute("SELECT count(*) FROM entries WHERE phase IN ('intent', 'undoing', 'failed')")
        if not known.fetchone()[0]:
            self.taps.unannounced.append(text)

    def _stop_reading(self) -> None:
        """The last one who closes the journal leaves all of it in one file."""
        if self.reader is not None:
            self.reader.close()
            self.reader = None

    def _tap_database(self, engine: Any) -> None:
        ends: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
        name = str(engine.url.database).rpartition("/")[2]

        @event.listens_for(engine, "before_cursor_execute")
        def begin(connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
            if statement.startswith("PRAGMA"):
                return
            words = " ".join(statement.split()[:3])
            writes = not statement.startswith("SELECT")
            if connection in ends:
                if writes:
                    self._effect(f"{name} {words}")
                return
            wrong = self.see("sql", f"{name} {words}", writes=writes)
            ends[connection] = wrong
            if wrong == "refused":
                raise exc.OperationalError(statement, {}, DriverError(2003, "Can't connect to the server"))
            if wrong == "error":
                raise exc.OperationalError(statement, {}, DriverError(1213, "Deadlock found when trying to get lock"))
            if wrong == "conflict":
                raise exc.IntegrityError(statement, {}, DriverError(1062, "Duplicate entry"))
            if wrong == "slow":
                self.sleep(8.0)

        @event.listens_for(engine, "commit")
        def commit(connection: Any) -> None:
            how = ends.pop(connection, "")
            driver = connection.connection.dbapi_connection
            if how == "lost":
                driver.commit()
            elif how == "timeout":
                driver.rollback()
            else:
                return
            raise exc.OperationalError(None, None, DriverError(2013, "Lost connection to server during query"))

        @event.listens_for(engine, "rollback")
        def rollback(connection: Any) -> None:
            ends.pop(connection, None)

    def _http(self, request: requests.PreparedRequest, **_options: Any) -> requests.Response:
        path = request.url.removeprefix(BASE) if request.url else ""
        is_call = path.startswith("/bus/") and request.method == "POST"
        body = request.body or b""
        raw = body.encode() if isinstance(body, str) else body
        message = json.loads(raw) if is_call else {}
        text = f"{message['topic']} {message['method']}" if is_call else f"{request.method} {path.partition('?')[0]}"
        reading = ("ping", "object_class_action_versions")
        writes = message["method"] not in reading if is_call else request.method not in ("GET", "HEAD")
        if is_call and message["method"] == "select_destinations":
            writes = message["arguments"]["instance_uuids"] is not None  # nothing is claimed otherwise
        if path.startswith("/identity"):
            return self._answer(request, path, raw)
        wrong = self.see("rpc" if is_call else "http", text, writes=writes)
        if wrong == "refused":
            raise requests.ConnectTimeout("refused", request=request)
        if wrong == "timeout":
            if (
                is_call
                and message["method"] in buses.compute.METHODS
                and message["server"] not in self.cloud.world.down
            ):
                self._begin(message)
            raise requests.ReadTimeout("no answer", request=request)
        if wrong == "error":
            failure = {"error": {"kind": "NovaException", "message": "the proof's own"}} if is_call else {}
            return _response(request, 200 if is_call else 500, json.dumps(failure).encode())
        if wrong == "conflict":
            kind = "UnexpectedTaskStateError"
            failure = {"error": {"kind": kind, "message": "the proof's own"}} if is_call else {}
            return _response(request, 200 if is_call else 409, json.dumps(failure).encode())
        if wrong == "queued":
            self.queued.append((self.seconds + QUEUED_SECONDS, message))
            raise requests.ReadTimeout("no answer", request=request)
        if wrong == "slow":
            self.sleep(8.0)
        if is_call and message["method"] == "ping" and message.get("server") in self._hosts_with_queue():
            raise requests.ReadTimeout("no answer", request=request)
        if is_call:
            self._take_queued(lambda host, _due: host == message.get("server"))
        answer = self._answer(request, path, raw)
        if wrong == "lost":
            raise requests.ReadTimeout("no answer", request=request)
        return answer

    def _hosts_with_queue(self) -> set[str]:
        return {message["server"] for _due, message in self.queued}

    def _take_queued(self, is_taken: Callable[[str, float], bool]) -> None:
        """Let hosts take calls that wait in their queues, the oldest first."""
        waiting, self.queued = self.queued, []
        for due, message in waiting:
            if is_taken(message["server"], due):
                self._begin(message)
            else:
                self.queued.append((due, message))

    def _begin(self, message: dict[str, Any]) -> None:
        """A host takes a call and is slow about it; it goes on when time passes."""
        call = buses.call_of(self.cloud, message)
        work = buses.compute.run(call)
        with contextlib.suppress(StopIteration, Refusal):
            next(work)
            self.working.append((call, work))

    def _answer(self, request: requests.PreparedRequest, path: str, raw: bytes) -> requests.Response:
        if self.hold is not None and path.startswith("/bus/") and request.method == "POST":
            message = json.loads(raw)
            try:
                answer = {"answer": buses.deliver(self.cloud, path.rpartition("/")[2], message, self.hold)}
            except Refusal as refusal:
                answer = {"error": {"kind": str(refusal.kind), "message": str(refusal)}}
            except buses.NoAnswer:
                raise requests.ReadTimeout("no answer", request=request) from None
            return _response(request, 200, json.dumps(answer).encode())
        where, _, query = path.partition("?")
        environment = {
            "REQUEST_METHOD": request.method, "PATH_INFO": where, "QUERY_STRING": query, "SERVER_NAME": "sandbox",
            "SERVER_PORT": "80", "CONTENT_LENGTH": str(len(raw)), "wsgi.input": BytesIO(raw),
            "CONTENT_TYPE": request.headers.get("Content-Type", ""), "wsgi.url_scheme": "http",
            **{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in request.headers.items()},
        }  # fmt: skip
        begun: list[Any] = []
        content = b"".join(self.app(environment, lambda status, headers, *_rest: begun.extend((status, headers))))
        return _response(request, int(begun[0].split()[0]), content, dict(begun[1]))


def _response(
    request: requests.PreparedRequest, status: int, content: bytes, headers: dict[str, str] | None = None
) -> requests.Response:
    made = requests.Response()
    made.status_code, made._content, made.request, made.url = status, content, request, request.url or ""
    made.headers.update(headers or {"Content-Type": "application/json"})
    made.encoding = "utf-8"
    return made
