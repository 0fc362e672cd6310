"""The sandbox and cellmove in this process, as a place for the scenarios that the lab plays: fast, and for mutants."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from types import SimpleNamespace

from cellmove.core.errors import CellmoveError
from cellmove.core.move import Step
from cellmove.operations import planning
from cellmove.operations.context import Session
from cellmove.operations.find import find_move
from cellmove.operations.run import run_step, run_to_finish
from cellmove.sandbox import seed
from tests.scenarios.environment import Outcome, Server, ServerSnapshot
from tests.support.sandbox.harness import Harness
from tests.support.sandbox.snapshot import snapshot

OPTIONS = ("--cell", "--host", "-f")


class Inside:
    """See :class:`tests.scenarios.environment.Place`. It knows the commands of those scenarios, and no others."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.cloud = harness.cloud

    def boot(self, prefix: str = "test", *, ports: int = 1, volumes: int = 0, **how: bool) -> Server:
        """A server is there at once."""
        name = f"{prefix}-inside"  # snapshots have the name replaced wherever it stands
        return Server(seed.boot(self.cloud, name, ports=ports, volumes=volumes, **how), name)

    def snapshot(self, server_id: str) -> ServerSnapshot:
        """Everything about a server; through JSON, like that of the lab."""
        shot: ServerSnapshot = json.loads(json.dumps(snapshot(self.cloud, server_id), default=str))
        return shot

    def cellmove(self, *arguments: str, expect: int = 0) -> Outcome:
        """Do what a command does, and say where the move is then."""
        words = list(arguments)
        options = {}
        for name in OPTIONS:
            if name in words:
                at = words.index(name)
                options[name] = words[at + 1]
                del words[at : at + 2]
        confirm = "--confirm" in words
        words = [word for word in words if word != "--confirm"]
        code, said = 0, ""
        try:
            with self.harness.session() as session:
                self._do(session, words, options, confirm=confirm)
        except CellmoveError as error:
            code, said = error.exit_code, error.message
        assert code == expect, said
        move = self.harness.move()
        target = {"cell": move.plan.get("target_cell"), "host": move.plan.get("target_host")}
        with self.harness.session() as session:
            for entry in session.journal.entries_of(move.id):
                target["host"] = entry.result.get("target_host", target["host"])
        out = {"state": move.state.value, "target": target}
        return Outcome(code, json.dumps(out) if "-f" in options else "", said)

    def _do(self, session: Session, words: list[str], options: dict[str, str], *, confirm: bool) -> None:
        verb, server, *more = words
        if verb not in ("resize", "migrate"):
            run_step(session, find_move(session, server), Step(verb))
            return
        report = planning.move_for(
            session, server, more[0] if more else None, host=options.get("--host"), cell=options.get("--cell"),
            force_locked=False, confirm=confirm,
        )  # fmt: skip
        assert report.move is not None, [check for check in report.checks if check.level == "refusal"]
        run_to_finish(session, report.move, confirm=confirm)

    @contextlib.contextmanager
    def fault(self, host: str, call: str, how: str, server_id: str | None = None) -> Iterator[None]:
        """Let a virt call go wrong."""
        key = f"{host}:{call}:{server_id}" if server_id else f"{host}:{call}"
        self.cloud.world.faults[key] = how
        try:
            yield
        finally:
            self.cloud.world.faults.pop(key, None)

    def stopped_compute(self, host: str) -> contextlib.AbstractContextManager[None]:
        """No scenario that is played here stops a host."""
        raise NotImplementedError(SimpleNamespace(host=host))
