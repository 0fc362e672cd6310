"""Starts cellmove processes fast: one process imports everything once, and each command is a fork of it.

A command started so is a process like any other, with arguments, environment, output, signals and an exit code of
its own; only the second in which Python reads libraries is saved, of which a suite of whole commands has hundreds.

    python tests/forge.py    # orders on stdin, answers on stdout, a JSON object a line
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]


class Forge:
    """The other end: orders commands, learns how they end. For one thread."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self.ended: dict[int, int] = {}
        self.unread = b""

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], out: Path, err: Path, *, kill_at: str = ""
    ) -> int:
        """Start a command; its pid.

        :param kill_at: where it is to die, as tests/kill_at.py takes it
        """
        order = {
            "arguments": list(arguments), "environment": dict(environment), "out": str(out), "err": str(err),
            "kill_at": kill_at,
        }  # fmt: skip
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()
        while True:
            answer = self._answer(60.0)
            if "code" not in answer:
                return int(answer["pid"])

    def wait(self, pid: int, seconds: float) -> int:
        """How a command ended, as subprocess says it: its exit code, or the signal's number below zero."""
        deadline = time.monotonic() + seconds
        while pid not in self.ended:
            self._answer(deadline - time.monotonic())
        return self.ended[pid]

    def kill(self, pid: int) -> None:
        """SIGKILL; one that has ended is no error."""
        if pid not in self.ended:
            os.kill(pid, signal.SIGKILL)
            self.wait(pid, 10.0)

    def close(self) -> None:
        """End it; whatever it has started runs on."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10.0)

    def _answer(self, seconds: float) -> dict[str, Any]:
        assert self.process.stdout is not None
        descriptor, deadline = self.process.stdout.fileno(), time.monotonic() + seconds
        while b"\n" not in self.unread:
            if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"no answer in {seconds:.0f} s")
            part = os.read(descriptor, 65536)
            if not part:
                raise RuntimeError("the forge has ended")
            self.unread += part
        line, self.unread = self.unread.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        if "code" in answer:
            self.ended[answer["pid"]] = answer["code"]
        return answer


# the process itself


def load() -> None:
    """Import what commands import when they need it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import amqp  # noqa: F401
        import openstack.connection  # noqa: F401
        import oslo_messaging  # noqa: F401
        import pymysql  # noqa: F401
        import sqlalchemy.dialects.mysql.pymysql  # noqa: F401
        import tenacity  # noqa: F401

        import cellmove.cli
        import cellmove.console
        import cellmove.progress
        import cellmove.session
        import cellmove.steps  # noqa: F401


def serve() -> None:
    """Take orders until nobody is left to give any."""
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.set_wakeup_fd(woken)
    unread = b""
    while True:
        ready = select.select([0, wake], [], [])[0]
        if wake in ready:
            os.read(wake, 4096)
            report_ended()
        if 0 not in ready:
            continue
        part = os.read(0, 65536)
        if not part:
            return
        *lines, unread = (unread + part).split(b"\n")
        for line in lines:
            say(pid=spawn(json.loads(line)))


def say(**answer: int) -> None:
    """One answer."""
    os.write(1, json.dumps(answer).encode() + b"\n")


def report_ended() -> None:
    """Say of every command that has ended how it did."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        say(pid=pid, code=os.waitstatus_to_exitcode(status))


def spawn(order: Mapping[str, Any]) -> int:
    """Fork a command."""
    pid = os.fork()
    if not pid:
        be(order)
    return pid


def be(order: Mapping[str, Any]) -> NoReturn:
    """Be the command, from here to its end."""
    code: object = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        redirect(order)
        random.seed()
        from tests import kill_at

        if order["kill_at"]:
            code = kill_at.kill_at(order["kill_at"], order["arguments"])
        else:
            code = kill_at.run(order["arguments"])
    except BaseException:  # noqa: BLE001 - nothing may come back from here into the loop of the parent
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0 if code is None else code if isinstance(code, int) else 1)


def redirect(order: Mapping[str, Any]) -> None:
    """The command's own files and environment."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for descriptor, path in ((0, os.devnull), (1, order["out"]), (2, order["err"])):
        opened = os.open(path, os.O_RDONLY if descriptor == 0 else flags, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.clear()
    os.environ.update(order["environment"])
    time.tzset()  # it may name another zone


if __name__ == "__main__":
    load()
    serve()
