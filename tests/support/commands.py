"""What a forked process runs: `cellmove`, as it is or with one thing changed in it from outside.

Each function takes what is changed, then the command's arguments, its environment, and the files for stdout and stderr.
cellmove itself knows nothing of these changes.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import os
import random
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support import kill_at

if TYPE_CHECKING:
    from click.testing import Result

Environment = dict[str, str]


def run_command(arguments: list[str], environment: Environment, out: Path, err: Path) -> None:
    """Run `cellmove` with these arguments."""
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode) for number, mode in ((0, "r"), (1, "w"), (2, "w")))
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()  # the environment may name another zone
    random.seed()  # otherwise all forks draw the same
    sys.argv = ["cellmove", *arguments]
    from cellmove.cli import main
    from tests.support.documents import check_output

    try:
        main()
    finally:
        # What is wrong shows as a traceback on stderr, which no test tolerates.
        if sys.stdout is not None and out.is_file():
            sys.stdout.flush()
            check_output(arguments, out.read_text())


def typed(*words: str, env: Mapping[str, str | None] | None = None) -> Result:
    """Run `cellmove` in this process, and check the JSON that it prints."""
    from click.testing import CliRunner

    from cellmove.cli import cli
    from tests.support.documents import check_output

    result = CliRunner().invoke(cli, list(words), env=env)
    check_output(words, result.stdout)
    return result


def run_killed(where: str, arguments: list[str], environment: Environment, out: Path, err: Path) -> None:
    """Run `cellmove`, which ends with SIGKILL at a point of an action.

    :param where: STEP:ACTION:POINT as in :mod:`tests.support.kill_at`
    """
    kill_at.arm(*where.split(":"))
    run_command(arguments, environment, out, err)


def run_paused(where: tuple[str, ...], arguments: list[str], environment: Environment, out: Path, err: Path) -> None:
    """Run `cellmove`, which stops at points of actions until somebody sends SIGCONT.

    :param where: each STEP:ACTION:POINT as in :mod:`tests.support.kill_at`
    """
    for place in where:
        kill_at.arm(*place.split(":"), act=kill_at.pause)
    run_command(arguments, environment, out, err)


def run_killed_in(where: str, arguments: list[str], environment: Environment, out: Path, err: Path) -> None:
    """Run `cellmove`, which ends with SIGKILL on one side of a method's first call.

    :param where: MODULE:CLASS.METHOD:before (or after)
    """
    module, path, side = where.split(":")
    owner, method = path.split(".")
    found = getattr(importlib.import_module(module), owner)
    original = getattr(found, method)

    def wrapped(*given: Any, **named: Any) -> Any:
        if side == "before":
            kill_at.die()
        result = original(*given, **named)
        kill_at.die()
        return result

    setattr(found, method, wrapped)
    run_command(arguments, environment, out, err)


def run_with_full_disk(pages: int, arguments: list[str], environment: Environment, out: Path, err: Path) -> None:
    """Run `cellmove` where the journal cannot have more than so many pages, as on a full disk."""
    from sqlalchemy import event
    from sqlalchemy.pool import Pool

    def limit(connection: Any, _record: Any) -> None:
        (_number, _name, path) = connection.execute("PRAGMA database_list").fetchone()
        if path == environment["CELLMOVE_JOURNAL"]:
            connection.execute(f"PRAGMA max_page_count={pages}")

    event.listen(Pool, "connect", limit)
    run_command(arguments, environment, out, err)


def run_impatient(arguments: list[str], environment: Environment, out: Path, err: Path) -> None:
    """Run a `cellmove` that soon gives up on what does not answer, and whose hours are two later while there is a file."""
    from cellmove.core import settings
    from cellmove.drain import window, worker
    from cellmove.operations import probe

    load = settings.load
    settings.load = lambda *given: dataclasses.replace(load(*given), patience=0.5)
    probe.PROBE_TIMEOUT_SECONDS = 2.0  # a busy machine takes its time to start a command
    closed_reason, late = worker.closed_reason, out.with_name("late")

    def hours_later(hours: window.Hours, now: datetime.datetime) -> str:
        return closed_reason(hours, now + datetime.timedelta(hours=2 if late.exists() else 0))

    worker.closed_reason = hours_later
    run_command(arguments, environment, out, err)


def run_with_closed_streams(
    closed: tuple[int, ...], arguments: list[str], environment: Environment, out: Path, err: Path
) -> None:
    """Run `cellmove` as a shell does with ``>&-``: the descriptors are closed, and Python has no such streams."""
    import cellmove.cli

    main = cellmove.cli.main

    def begin() -> None:
        for number in closed:
            os.close(number)
            setattr(sys, ("stdin", "stdout", "stderr")[number], None)
        main()

    cellmove.cli.main = begin
    run_command(arguments, environment, out, err)


def run_at_a_terminal(terminal: str, arguments: list[str], environment: Environment, out: Path, err: Path) -> None:
    """Run `cellmove` whose output goes to a terminal, both streams; nobody is there to be asked.

    :param terminal: its path
    """
    import cellmove.cli

    main = cellmove.cli.main

    def begin() -> None:
        for number in (1, 2):
            os.dup2(os.open(terminal, os.O_WRONLY | os.O_NOCTTY), number)
        kept = sys.stdout, sys.stderr  # they would close the descriptors
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        main()
        del kept

    cellmove.cli.main = begin
    run_command(arguments, environment, out, err)


def run_without_override(arguments: list[str], environment: Environment, out: Path, err: Path) -> None:
    """Run a `cellmove` that may write only what its mode lets its owner write, also as root."""
    if os.geteuid() == 0:
        _drop_override()
    run_command(arguments, environment, out, err)


def _drop_override() -> None:
    """Give up CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH (capset(2), version 3 of its structures)."""
    import ctypes

    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capget(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    data[0] &= ~(1 << 1 | 1 << 2)
    if libc.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capset")
