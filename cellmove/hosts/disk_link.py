"""A connection to the disk agent (:mod:`cellmove.hosts.disk_agent`) on a compute host, by ssh."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import threading
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from cellmove.core.errors import CallError, CallFailed, CallUncertain, CannotConnect, NotFound
from cellmove.hosts.disk_agent.frames import MAGIC, MAX_HEADER, MAX_PAYLOAD, PREFIX, VERSION
from cellmove.hosts.disk_archive import archive
from cellmove.hosts.disk_ssh import Destination, meaning_of, ssh_command, trial_command

T = TypeVar("T")

GREETING = re.compile(rb"cellmove-disks (\d+) (ready|differs)\n\Z")
MAX_NOISE = 65536  # bytes that a login shell may print before the agent greets
START_TIMEOUT_SECONDS = 30.0  # for Python to start, once ssh is connected

RESUMES = "the same command continues with what was copied"

HINTS = {
    "no-space": "make room there, then run the same command again: what was copied stays",
    "denied": "the user there needs the right to read and write instances_path (become, for instance sudo -n)",
    "damaged": "the next pass sends it again",
    "changed": "make sure that nothing else works on this server's files, then run the same command again",
    "identity": "look at it before you remove it by hand",
    "qemu-img": "look at the image with qemu-img check",
}
"""Remedies for refusals, by their kind."""


@dataclass(frozen=True)
class Answer:
    """An answer of the agent.

    :param fields: of the header
    """

    fields: Mapping[str, Any]
    payload: bytes = field(repr=False)


@contextmanager
def connect(
    destination: Destination, move_id: str, *, command: Sequence[str] | None = None, silence: float = 600.0
) -> Iterator[Link]:
    """Run the agent on a host for as long as the context lasts. Between requests it keeps what it knows of files.

    :param move_id: the agent writes only to files with the mark of this move
    :param command: to run instead of ssh
    :param silence: seconds without an answer after which the connection counts as lost
    :raises CannotConnect: nothing was done; the message says why and what to try
    """
    try:
        process = subprocess.Popen(  # noqa: S603 - ssh, as the operator configured it
            list(command if command is not None else ssh_command(destination)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=os.environ | {"LC_ALL": "C"},  # for messages in English
            start_new_session=True,  # a Ctrl-C must not reach ssh: cellmove finishes its current action first
        )
    except OSError as error:
        raise CannotConnect(f"ssh cannot be started: {error.strerror}; install the OpenSSH client") from None
    link = Link(destination, move_id, process, silence)
    try:
        link.greet()
        link.request(
            "hello",
            move=move_id,
            instances_path=destination.instances_path,
            block=destination.block,
            threads=destination.threads,
        )
        yield link
    finally:
        link.close()


class Link:
    """A running agent. One thread may send requests while another receives the answers, which have the same order."""

    def __init__(
        self, destination: Destination, move_id: str, process: subprocess.Popen[bytes], silence: float
    ) -> None:
        self.destination, self.host, self.move_id = destination, destination.host, move_id
        self._process, self._silence, self._lost = process, silence, False
        assert process.stdin is not None  # noqa: S101 - for the types
        assert process.stdout is not None  # noqa: S101
        self._input, self._output = process.stdin.fileno(), process.stdout.fileno()
        os.set_blocking(self._input, False)
        self._asked: deque[tuple[str, str]] = deque()
        self._error_output: deque[bytes] = deque(maxlen=20)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def outstanding(self) -> int:
        """The number of requests without an answer yet."""
        return len(self._asked)

    @property
    def usable(self) -> bool:
        """Whether the connection still works."""
        return not self._lost

    def request(self, do: str, payload: bytes = b"", **fields: Any) -> Answer:
        """Send a request and receive its answer. No other request may be outstanding.

        :raises CallFailed: the agent refused; ``kind`` is its word for the reason. NotFound: there is no such file
        :raises CallUncertain: the connection broke; the request may have had its effect
        """
        self.ask(do, payload, **fields)
        return self.take()

    def ask(self, do: str, payload: bytes = b"", **fields: Any) -> None:
        """Send a request. Wait while the agent is behind.

        :raises CallUncertain: the connection broke
        """
        text = json.dumps({"do": do, **fields}).encode()
        self._asked.append((do, str(fields.get("path", ""))))
        self._send(PREFIX.pack(MAGIC, len(text), len(payload), zlib.crc32(text)) + text, do)
        self._send(payload, do)

    def take(self) -> Answer:
        """Receive the next answer.

        :raises CallFailed: see :meth:`request`
        :raises CallUncertain: see :meth:`request`
        """
        do, path = self._asked[0] if self._asked else ("", "")
        magic, length, payload_length, check = PREFIX.unpack(self._receive(PREFIX.size, do))
        if magic != MAGIC or length > MAX_HEADER or payload_length > MAX_PAYLOAD:
            self._fail_as_garbled()
        text = self._receive(length, do)
        if zlib.crc32(text) != check:
            self._fail_as_garbled()
        payload = self._receive(payload_length, do)
        try:
            fields = json.loads(bytes(text))
        except ValueError:
            self._fail_as_garbled()
        if not isinstance(fields, dict):
            self._fail_as_garbled()
        self._asked.popleft()
        if "error" in fields:
            raise self._refused(str(fields["error"]), str(fields.get("text", "")), path)
        return Answer(fields, payload)

    def drain(self) -> None:
        """Receive and drop all outstanding answers, so that the next request can be sent."""
        while self._asked and not self._lost:
            try:
                self.take()
            except CallFailed:
                continue
            except CallError:
                return

    def greet(self) -> None:
        """Send the agent and wait until it runs.

        :raises CannotConnect: it does not run
        """
        program = archive()
        try:
            self._send(f"cellmove-disks {VERSION} {len(program)}\n".encode() + program, "")
        except CallUncertain:
            raise self._cannot_connect(self._rest()) from None
        line, noise = b"", b""
        while (found := GREETING.match(line)) is None:
            if line.endswith(b"\n"):  # output of a login shell
                noise, line = noise + line, b""
            if len(noise) + len(line) > MAX_NOISE:
                self.kill()  # the output may have no end
                raise self._cannot_connect(noise)
            try:
                line += self._receive(1, "", self.destination.connect_timeout + START_TIMEOUT_SECONDS)
            except CallUncertain:
                raise self._cannot_connect(noise + line) from None
        if int(found[1]) != VERSION or found[2] == b"differs":
            raise CannotConnect(
                f"the disk agent that is installed on {self.host} has another version: install this version's"
                " (python3 -m cellmove.hosts.disk_archive writes it)"
            )

    def close(self) -> None:
        """End the agent by ending its input; kill ssh if it does not end then."""
        self._lost = True
        for file in (self._process.stdin, self._process.stdout):
            if file is not None:
                file.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join(2)
        if self._process.stderr is not None:
            self._process.stderr.close()

    def kill(self) -> None:
        """Break the connection at once, so that a thread that waits for an answer continues."""
        self._process.kill()

    def _listen(self) -> None:
        stream = self._process.stderr
        while stream is not None and (part := stream.read(4096)):
            self._error_output.append(part)

    def _send(self, data: bytes, do: str) -> None:
        view, poll = memoryview(data), select.poll()
        poll.register(self._input, select.POLLOUT)
        while len(view):
            if self._lost or not poll.poll(self._silence * 1000):
                self._fail_as_broken(do, silent=True)
            try:
                view = view[os.write(self._input, view) :]
            except BlockingIOError:
                continue
            except OSError:
                self._fail_as_broken(do)

    def _receive(self, length: int, do: str, timeout: float | None = None) -> bytes:
        buffer, got, poll = bytearray(length), 0, select.poll()
        view = memoryview(buffer)
        poll.register(self._output, select.POLLIN)
        while got < length:
            if self._lost or not poll.poll((timeout or self._silence) * 1000):
                self._fail_as_broken(do, silent=True)
            more = os.readv(self._output, [view[got:]])
            if not more:
                self._fail_as_broken(do)
            got += more
        return buffer  # type: ignore[return-value]  # a bytearray, to copy no megabytes

    def _rest(self) -> bytes:
        """Return the output that is still unread: it may explain why the input was refused."""
        rest, poll = b"", select.poll()
        poll.register(self._output, select.POLLIN)
        while len(rest) < MAX_NOISE and poll.poll(1000) and (more := os.read(self._output, MAX_NOISE)):
            rest += more
        return rest

    def _fail_as_broken(self, do: str, *, silent: bool = False) -> NoReturn:
        """Raise the error of a broken connection."""
        self._lost = True
        when = f"during {do}" if do else "before it answered"
        if silent:
            self._process.kill()
            raise CallUncertain(f"{self.host} was silent for too long {when}; {RESUMES}")
        output = self._last_output()
        raise CallUncertain(f"the connection to {self.host} broke {when}{f' ({output})' if output else ''}; {RESUMES}")

    def _fail_as_garbled(self) -> NoReturn:
        self._lost = True
        raise CallFailed(
            f"the output of {self.host} cannot be parsed: another program there writes into the connection; try:"
            f" {trial_command(self.destination)} | od -c | head",
            kind="nonsense",
        )

    def _cannot_connect(self, noise: bytes) -> CannotConnect:
        self._lost = True
        output = self._last_output(every=True) + "\n" + noise[-2000:].decode(errors="replace")
        if self._process.poll() is None:
            self._process.kill()
        last = [line.strip() for line in output.splitlines() if line.strip()][-1:]
        problem = meaning_of(output) or "the agent does not run there"
        return CannotConnect(
            f"{self.host}: {problem}{f' ({last[0][:200]})' if last else ''}; try: {trial_command(self.destination)}"
        )

    def _last_output(self, *, every: bool = False) -> str:
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._listener.join(2)
        lines = [
            line.strip() for line in b"".join(self._error_output).decode(errors="replace").splitlines() if line.strip()
        ]
        return "\n".join(lines) if every else "".join(lines[-1:])[:200]

    def _refused(self, kind: str, text: str, path: str) -> CallFailed:
        where = f"{self.host}: {text}" if not path or path in text else f"{self.host}: {path}: {text}"
        if kind == "absent":
            return NotFound(where)
        return CallFailed(f"{where}; {HINTS[kind]}" if kind in HINTS else where, kind=kind)


def expect(link: Link, answer: Answer, name: str, kind: type[T]) -> T:
    """Return a field of an answer and check its type.

    :raises CallFailed: the type is another one; ``kind`` is ``nonsense``
    """
    value = answer.fields.get(name)
    if not isinstance(value, kind):
        raise CallFailed(f"{link.host} sent an answer without a valid {name!r}", kind="nonsense")
    return value
