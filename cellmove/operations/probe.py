"""Probes of a moved guest: a TCP port, a ping, or a command of the operator."""

from __future__ import annotations

import os
import socket
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellmove.core.errors import Usage

if TYPE_CHECKING:
    from cellmove.core.clock import Clock

PROBE_TIMEOUT_SECONDS = 60.0  # a guest that was just started has to answer within this time
ATTEMPT_TIMEOUT_SECONDS = 5.0
SHELL = "/bin/sh"  # runs the operator's command, so that pipes, variables and quotes mean what they mean in a script


@dataclass(frozen=True)
class Probe:
    """One probe.

    :param kind: ``tcp``, ``ping`` or ``cmd``
    :param detail: the port, nothing, or the command line
    """

    kind: str
    detail: str = ""

    @property
    def text(self) -> str:
        """Return the probe as it was typed."""
        return f"{self.kind}:{self.detail}" if self.detail else self.kind

    @property
    def name(self) -> str:
        """Return the name for messages, without the arguments of a command, which may hold a password."""
        if self.kind != "cmd":
            return self.text
        program = self.detail.split()[0]
        return self.kind if "=" in program else f"{self.kind}:{program}"


@dataclass(frozen=True)
class Guest:
    """The guest that is probed."""

    server_id: str
    name: str
    addresses: tuple[str, ...]


def parse(text: str) -> Probe:
    """Parse a probe of the command line: ``tcp:PORT``, ``ping`` or ``cmd:COMMAND``.

    :raises Usage: the text is none of these
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
    raise Usage(f"{' '.join(text.split()[:1])!r} is not a probe; use tcp:PORT, ping or cmd:COMMAND")


def _require_syntax(probe: Probe) -> None:
    """Refuse a command that the shell cannot parse, without running it.

    :raises Usage: with the shell's message
    """
    read = subprocess.run(  # noqa: S603 - read only (-n)
        [SHELL, "-n", "-c", probe.detail], capture_output=True, text=True, check=False, errors="replace"
    )
    if read.returncode:
        words = (read.stderr.strip().splitlines() or ["no reason given"])[0]
        raise Usage(f"the command of the probe {probe.name!r} cannot be parsed: {words}")


def wait_for(probe: Probe, guest: Guest, clock: Clock) -> str:
    """Probe until the guest answers, at most :data:`PROBE_TIMEOUT_SECONDS`.

    :returns: the reason of the last failure; empty after an answer
    """
    if probe.kind != "cmd" and not guest.addresses:
        return "the guest has no address"
    deadline, waits = clock.monotonic() + PROBE_TIMEOUT_SECONDS, clock.waits()
    while True:
        why = _ask(probe, guest)
        if not why or clock.monotonic() >= deadline:
            return why
        clock.sleep(next(waits))


def _ask(probe: Probe, guest: Guest) -> str:
    """Probe once. One address that answers is enough.

    :returns: the reason of the failure; empty after an answer
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
        with socket.create_connection((address, port), timeout=ATTEMPT_TIMEOUT_SECONDS):
            return ""
    except OSError as error:
        return f"{address} port {port}: {error.strerror or error}"


def _ping(address: str, guest: Guest) -> str:
    why = _run(["ping", "-c", "1", "-W", str(round(ATTEMPT_TIMEOUT_SECONDS)), address], "ping", guest)
    return f"{address} does not answer ({why})" if why else ""


def _run(words: list[str], name: str, guest: Guest) -> str:
    """Run a command. Its environment describes the guest.

    :param name: the name of the command in messages
    :returns: the reason of a failure; empty after a success
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
            timeout=PROBE_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{name} did not end within {PROBE_TIMEOUT_SECONDS:.0f} s"
    except OSError as error:
        return f"{words[0]}: {error.strerror}"
    return f"{name} ended with {ended.returncode}" if ended.returncode else ""
