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
from pathlib import Path
from typing import Any

from tests.support import kill_at

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

    main()


def run_killed(where: str, arguments: list[str], environment: Environment, out: Path, err: Path) -> None:
    """Run `cellmove`, which ends with SIGKILL at a point of an action.

    :param where: STEP:ACTION:POINT as in :mod:`tests.support.kill_at`
    """
    kill_at.arm(*where.split(":"))
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
    from cellmove import probe, settings
    from cellmove.drain import run, window

    load = settings.load
    settings.load = lambda *given: dataclasses.replace(load(*given), patience=0.5)
    probe.PATIENCE = 2.0  # a busy machine takes its time to start a command
    why_closed, late = run.why_closed, out.with_name("late")

    def hours_later(hours: window.Hours, now: datetime.datetime) -> str:
        return why_closed(hours, now + datetime.timedelta(hours=2 if late.exists() else 0))

    run.why_closed = hours_later
    run_command(arguments, environment, out, err)
