"""What an operator can have asked of a moved guest: a TCP port, a ping, a command of their own."""

from __future__ import annotations

import os
import socket
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellmove.core.errors import Usage

if TYPE_CHECKING:
    from cellmove.core.clock import Clock

PATIENCE = 60.0  # seconds in which a guest that has just been started has to answer
ONE_TRY = 5.0  # seconds
SHELL = "/bin/sh"  # runs the operator's command, so that pipes, variables and quotes mean what they mean in a script


@dataclass(frozen=True)
class Probe:
    """One question.

    :param kind: ``tcp``, ``ping`` or ``cmd``
    :param detail: the port, nothing, or the command line
    """

    kind: str
    detail: str = ""

    @property
    def text(self) -> str:
        """As it was typed."""
        return f"{self.kind}:{self.detail}" if self.detail else self.kind

    @property
    def name(self) -> str:
        """As messages name it: without the arguments of a command, which may hold a password."""
        if self.kind != "cmd":
            return self.text
        program = self.detail.split()[0]
        return self.kind if "=" in program else f"{self.kind}:{program}"


@dataclass(frozen=True)
class Guest:
    """Who is asked."""

    server_id: str
    name: str
    addresses: tuple[str, ...]


def parse(text: str) -> Probe:
    """A probe from the command line: ``tcp:PORT``, ``ping`` or ``cmd:COMMAND``.

    :raises Usage: it is none of these
    """
    if "\0" in text:
        raise Usage("a probe has a NUL character in it")
    kind, _, detail = text.partition(":")
    if kind == "tcp" and detail.isdecimal() and 0 < int(detail) < 65536:
        return Probe(kind, detail)
    if kind == "ping" and not detail:
        return Probe(kind)
    if kind == "cmd" and detail.strip():
        probe = Probe(kind, detail)
        _require_syntax(probe)
        return probe
    raise Usage(f"{' '.join(text.split()[:1])!r} is no probe; there are tcp:PORT, ping and cmd:COMMAND")


def _require_syntax(probe: Probe) -> None:
    """Refuse a command that the shell cannot read; nothing of it is run.

    :raises Usage: with the shell's own words
    """
    read = subprocess.run(  # noqa: S603 - read only (-n)
        [SHELL, "-n", "-c", probe.detail], capture_output=True, text=True, check=False, errors="replace"
    )
    if read.returncode:
        words = (read.stderr.strip().splitlines() or ["no reason given"])[0]
        raise Usage(f"the command of the probe {probe.name!r} cannot be read: {words}")


def wait_for(probe: Probe, guest: Guest, clock: Clock) -> str:
    """Ask until the guest answers, or a minute is over.

    :returns: why it does not; empty when it does
    """
    if probe.kind != "cmd" and not guest.addresses:
        return "the guest has no address"
    deadline, waits = clock.monotonic() + PATIENCE, clock.waits()
    while True:
        why = _ask(probe, guest)
        if not why or clock.monotonic() >= deadline:
            return why
        clock.sleep(next(waits))


def _ask(probe: Probe, guest: Guest) -> str:
    """One try: any of the guest's addresses will do.

    :returns: why not; empty when it answers
    """
    if probe.kind == "cmd":
        return _run([SHELL, "-c", probe.detail], "the command", guest)
    why = ""
    for address in guest.addresses:
        why = _connect(address, int(probe.detail)) if probe.kind == "tcp" else _ping(address, guest)
        if not why:
            return ""
    return why


def _connect(address: str, port: int) -> str:
    try:
        with socket.create_connection((address, port), timeout=ONE_TRY):
            return ""
    except OSError as error:
        return f"{address} port {port}: {error.strerror or error}"


def _ping(address: str, guest: Guest) -> str:
    why = _run(["ping", "-c", "1", "-W", str(round(ONE_TRY)), address], "ping", guest)
    return f"{address} does not answer ({why})" if why else ""


def _run(words: list[str], name: str, guest: Guest) -> str:
    """Run a command, which learns of the guest through its environment.

    :param name: the command as messages name it
    :returns: why it failed; empty when it did not
    """
    told = {
        "CELLMOVE_SERVER_ID": guest.server_id,
        "CELLMOVE_SERVER_NAME": guest.name,
        "CELLMOVE_ADDRESSES": " ".join(guest.addresses),
    }
    try:
        ended = subprocess.run(  # noqa: S603 - the operator's own command line
            words,
            env={**os.environ, **told},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{name} did not end within {PATIENCE:.0f} s"
    except OSError as error:
        return f"{words[0]}: {error.strerror}"
    return f"{name} ended with {ended.returncode}" if ended.returncode else ""
