"""The way to the disks of a compute host: the program of :mod:`cellmove.hosts.disk_program` at the other end of ssh.

The system's own OpenSSH client is started, so that everything the operator's ssh configuration says holds (jump hosts,
keys, agents, known hosts). It is never given a password, and no host is believed whose key is not known already.
``python3 -m cellmove.hosts.disk_link`` writes the program's text, for those who install it (docs/stream.md).
"""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import subprocess
import sys
import threading
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from cellmove.core.errors import CallError, CallFailed, CallUncertain, CannotConnect, NotFound
from cellmove.hosts.disk_frames import MAGIC, MOST_HEADER, MOST_PAYLOAD, PREFIX, VERSION
from cellmove.hosts.disk_reading import BLOCK

T = TypeVar("T")

BOOTSTRAP = (
    "import sys;i=sys.stdin.buffer;n=int(i.readline().split()[2]);"
    'exec(compile(i.read(n),"cellmove-disks","exec"),{"__name__":"cellmove_disks"})'
)
"""What is on the host's command line: it reads the program from its input and runs it. Nothing follows before that answers."""

PARTS = ("frames", "extents", "reading", "sample", "writing", "program")
"""Of the program, in their order."""

GREETING = re.compile(rb"cellmove-disks (\d+) (ready|differs)\n\Z")
NOISE = 65536  # bytes that a login shell may print before the program greets
START = 30.0  # seconds for Python to start, once ssh is connected

TROUBLES = (
    (r"REMOTE HOST IDENTIFICATION HAS CHANGED", "its host key is not the known one: find out why before anything else"),
    (r"Host key verification failed|host key is known", "its host key is not known here: verify it and add it to known_hosts"),
    (r"[Bb]ad configuration option|terminating, \d+ bad|Can't open user config file|Bad owner or permissions on",
     "the ssh configuration cannot be used (ssh.config of config.toml, or the user's own)"),
    (r"Permission denied \(", "it accepts no key of ours"),
    (r"Too many authentication failures", "it was offered too many keys: name one in the ssh configuration (IdentitiesOnly)"),
    (r"Could not resolve hostname", "its name cannot be resolved"),
    (r"Connection refused|No route to host|timed out|Network is unreachable|Connection reset", "it cannot be reached"),
    (r"sudo: .*(password|terminal|tty)", "sudo wants a password there, or a terminal: a rule with NOPASSWD is needed"),
    (r"sudo: .*(not allowed|may not)|is not in the sudoers", "sudo does not allow it there"),
    (r"sudo: .*not found|doas: .*not found", "what it is to become root with is not installed there"),
    (r"python\S*: (command )?not found|python\S*.*No such file", "there is no python3 there"),
    (r"SyntaxError|invalid syntax", "its python3 is older than 3.6"),
)  # fmt: skip
"""What ssh, sudo or a shell say, and what it means for whoever reads it."""

HINTS = {
    "no-space": "make room there, then run the same command again: what was copied stays",
    "denied": "the user there needs the right to read and write instances_path (become, for instance sudo -n)",
    "damaged": "the next pass sends it again",
    "changed": "make sure that nothing else works on this server's files, then run the same command again",
    "identity": "look at it before you remove it by hand",
    "qemu-img": "look at the image with qemu-img check",
}
"""What to do about an answer of no."""


@dataclass(frozen=True)
class Destination:
    """A compute host as ssh reaches it.

    :param host: its name, as the ssh configuration or the resolver knows it
    :param instances_path: nova's, on that host
    :param user: empty: what the ssh configuration says
    :param port: 0: what the ssh configuration says
    :param ssh_config: read instead of the user's own (``ssh -F``)
    :param become: what is put before the command, for instance ``("sudo", "-n")``
    :param python: the interpreter there, 3.6 or later
    :param alive: seconds after which a silent connection is asked; after three times as many it is given up
    :param connect_timeout: seconds to connect within
    :param block: bytes of a block, the same at both ends of a pass; a multiple of 4096
    :param threads: that read and hash there; 0: up to four, as the host has processors
    """

    host: str
    instances_path: str = "/var/lib/nova/instances"
    user: str = ""
    port: int = 0
    ssh_config: Path | None = None
    become: tuple[str, ...] = ()
    python: str = "python3"
    alive: int = 15
    connect_timeout: int = 10
    block: int = BLOCK
    threads: int = 0


@dataclass(frozen=True)
class Answer:
    """What was answered: the header's fields and the payload."""

    fields: Mapping[str, Any]
    payload: bytes = field(repr=False)


def ssh_command(destination: Destination) -> list[str]:
    """The command that starts the program on a host.

    Our options come before the user's configuration, where the first one wins. No cipher is forced: hosts know best
    which of theirs is fast.

    :raises CannotConnect: when a name would be read as an option
    """
    options = [
        "-T", "-e", "none", "-oBatchMode=yes", "-oStrictHostKeyChecking=yes", "-oControlMaster=no", "-oRemoteCommand=none",
        "-oClearAllForwardings=yes", "-oForwardAgent=no", "-oForwardX11=no", "-oPermitLocalCommand=no", "-oLogLevel=INFO",
        f"-oServerAliveInterval={destination.alive}", "-oServerAliveCountMax=3",
        f"-oConnectTimeout={destination.connect_timeout}",
    ]  # fmt: skip
    remote = shlex.join([*destination.become, destination.python, "-I", "-c", BOOTSTRAP])
    return ["ssh", *options, *_whither(destination), remote]


def _whither(destination: Destination) -> list[str]:
    if destination.host.startswith("-") or not destination.host or destination.user.startswith("-"):
        raise CannotConnect(f"{destination.user or destination.host!r} is no name that ssh could connect to")
    where = ["-F", str(destination.ssh_config)] if destination.ssh_config is not None else []
    where += ["-p", str(destination.port)] if destination.port else []
    return [*where, *(["-l", destination.user] if destination.user else []), "--", destination.host]


@cache
def program() -> bytes:
    """The text that runs on a host: all its parts, without the imports of one by another."""
    parts = (Path(__file__).with_name(f"disk_{name}.py").read_text(encoding="utf-8") for name in PARTS)
    return "\n\n".join(re.sub(r"(?s)# isort: off\n.*# isort: on\n", "", part) for part in parts).encode()


@contextmanager
def connect(
    destination: Destination, move_id: str, *, command: Sequence[str] | None = None, silence: float = 600.0
) -> Iterator[Link]:
    """The program on a host, for as long as the context lasts; it keeps what it learns of files between requests.

    :param move_id: whose mark unfinished files carry; nothing else is ever written to
    :param command: started instead of ssh
    :param silence: seconds without an answer after which nobody is believed to be there
    :raises CannotConnect: nothing was done; the message says why and what to try
    """
    try:
        process = subprocess.Popen(  # noqa: S603 - ssh, as the operator configured it
            list(command if command is not None else ssh_command(destination)),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
            env=os.environ | {"LC_ALL": "C"},  # so that what is said can be understood
            start_new_session=True,  # Ctrl-C is for us: the action in hand is finished first
        )  # fmt: skip
    except OSError as error:
        raise CannotConnect(f"ssh cannot be started: {error.strerror}; install the OpenSSH client") from None
    link = Link(destination, move_id, process, silence)
    try:
        link.greet()
        link.request(
            "hello", move=move_id, instances_path=destination.instances_path, block=destination.block, threads=destination.threads,
        )  # fmt: skip
        yield link
    finally:
        link.close()


class Link:
    """A program on a host. One thread may ask while another takes the answers, which come in the order of the asking."""

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
        self._said: deque[bytes] = deque(maxlen=20)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def outstanding(self) -> int:
        """How many answers are still to be taken."""
        return len(self._asked)

    @property
    def usable(self) -> bool:
        """Whether anything more can be asked."""
        return not self._lost

    def request(self, do: str, payload: bytes = b"", **fields: Any) -> Answer:
        """Ask, and take the answer. Nothing may be outstanding.

        :raises CallFailed: the host answered no; ``kind`` is its word for it, NotFound that there is no such file
        :raises CallUncertain: the connection broke; whether it happened is not known
        """
        self.ask(do, payload, **fields)
        return self.take()

    def ask(self, do: str, payload: bytes = b"", **fields: Any) -> None:
        """Send a request. Waits while the other end is behind.

        :raises CallUncertain: the connection broke
        """
        text = json.dumps({"do": do, **fields}).encode()
        self._asked.append((do, str(fields.get("path", ""))))
        self._send(PREFIX.pack(MAGIC, len(text), len(payload), zlib.crc32(text)) + text, do)
        self._send(payload, do)

    def take(self) -> Answer:
        """The next answer.

        :raises CallFailed: see :meth:`request`
        :raises CallUncertain: see :meth:`request`
        """
        do, path = self._asked[0] if self._asked else ("", "")
        magic, length, payload_length, check = PREFIX.unpack(self._receive(PREFIX.size, do))
        if magic != MAGIC or length > MOST_HEADER or payload_length > MOST_PAYLOAD:
            self._nonsense()
        text = self._receive(length, do)
        if zlib.crc32(text) != check:
            self._nonsense()
        payload = self._receive(payload_length, do)
        try:
            fields = json.loads(bytes(text))
        except ValueError:
            self._nonsense()
        if not isinstance(fields, dict):
            self._nonsense()
        self._asked.popleft()
        if "error" in fields:
            raise self._refused(str(fields["error"]), str(fields.get("text", "")), path)
        return Answer(fields, payload)

    def drain(self) -> None:
        """Take all answers that are outstanding, whatever they say, so that the next request can be made."""
        while self._asked and not self._lost:
            try:
                self.take()
            except CallFailed:
                continue
            except CallError:
                return

    def greet(self) -> None:
        """Send the program and wait until it runs.

        :raises CannotConnect: it does not
        """
        text = program()
        try:
            self._send(f"cellmove-disks {VERSION} {len(text)}\n".encode() + text, "")
        except CallUncertain:
            raise self._cannot_connect(self._rest()) from None
        line, noise = b"", b""
        while (found := GREETING.match(line)) is None:
            if line.endswith(b"\n"):  # of a login shell that likes to talk
                noise, line = noise + line, b""
            if len(noise) + len(line) > NOISE:
                self.kill()  # it would never come to an end
                raise self._cannot_connect(noise)
            try:
                line += self._receive(1, "", self.destination.connect_timeout + START)
            except CallUncertain:
                raise self._cannot_connect(noise + line) from None
        if int(found[1]) != VERSION or found[2] == b"differs":
            raise CannotConnect(
                f"the program that is installed on {self.host} is not this cellmove's: install it there anew"
                " (python3 -m cellmove.hosts.disk_link writes it)"
            )

    def close(self) -> None:
        """End the program there: its input ends. What does not end by itself is ended here."""
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
        """Give the connection up at once, so that a thread that waits for it goes on."""
        self._process.kill()

    def _listen(self) -> None:
        stream = self._process.stderr
        while stream is not None and (part := stream.read(4096)):
            self._said.append(part)

    def _send(self, data: bytes, do: str) -> None:
        view, poll = memoryview(data), select.poll()
        poll.register(self._input, select.POLLOUT)
        while len(view):
            if self._lost or not poll.poll(self._silence * 1000):
                self._break_off(do, silent=True)
            try:
                view = view[os.write(self._input, view) :]
            except BlockingIOError:
                continue
            except OSError:
                self._break_off(do)

    def _receive(self, length: int, do: str, patience: float | None = None) -> bytes:
        buffer, got, poll = bytearray(length), 0, select.poll()
        view = memoryview(buffer)
        poll.register(self._output, select.POLLIN)
        while got < length:
            if self._lost or not poll.poll((patience or self._silence) * 1000):
                self._break_off(do, silent=True)
            more = os.readv(self._output, [view[got:]])
            if not more:
                self._break_off(do)
            got += more
        return buffer  # type: ignore[return-value]  # megabytes are not copied for their type's sake

    def _rest(self) -> bytes:
        """What is still to be read of an end that takes nothing any more: it may say why."""
        rest, poll = b"", select.poll()
        poll.register(self._output, select.POLLIN)
        while len(rest) < NOISE and poll.poll(1000) and (more := os.read(self._output, NOISE)):
            rest += more
        return rest

    def _break_off(self, do: str, *, silent: bool = False) -> NoReturn:
        """The connection is of no use any more; say why."""
        self._lost = True
        what = f"during {do}" if do else "before it answered"
        if silent:
            self._process.kill()
            raise CallUncertain(f"{self.host} was silent for too long {what}; {AGAIN}")
        said = self._last_words()
        raise CallUncertain(f"the connection to {self.host} broke {what}{f' ({said})' if said else ''}; {AGAIN}")

    def _nonsense(self) -> NoReturn:
        self._lost = True
        raise CallFailed(
            f"what {self.host} answers makes no sense: something there or in between writes into the connection; try:"
            f" {self.trial()} | od -c | head",
            kind="nonsense",
        )

    def trial(self) -> str:
        """A command for a person to try whether the host lets us in."""
        return shlex.join(["ssh", *_whither(self.destination), *self.destination.become, "true"])

    def _cannot_connect(self, noise: bytes) -> CannotConnect:
        self._lost = True
        words = self._last_words(every=True) + "\n" + noise[-2000:].decode(errors="replace")
        if self._process.poll() is None:
            self._process.kill()
        meaning = next((meaning for pattern, meaning in TROUBLES if re.search(pattern, words)), "")
        last = [line.strip() for line in words.splitlines() if line.strip()][-1:]
        told = meaning or "the program does not run there"
        return CannotConnect(f"{self.host}: {told}{f' ({last[0][:200]})' if last else ''}; try: {self.trial()}")

    def _last_words(self, *, every: bool = False) -> str:
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._listener.join(2)
        lines = [line.strip() for line in b"".join(self._said).decode(errors="replace").splitlines() if line.strip()]
        return "\n".join(lines) if every else "".join(lines[-1:])[:200]

    def _refused(self, kind: str, text: str, path: str) -> CallFailed:
        where = f"{self.host}: {text}" if not path or path in text else f"{self.host}: {path}: {text}"
        if kind == "absent":
            return NotFound(where)
        return CallFailed(f"{where}; {HINTS[kind]}" if kind in HINTS else where, kind=kind)


AGAIN = "the same command again goes on from what is there"


def expect(link: Link, answer: Answer, name: str, kind: type[T]) -> T:
    """A field of an answer, which has to be of one type.

    :raises CallFailed: it is not (``nonsense``)
    """
    value = answer.fields.get(name)
    if not isinstance(value, kind):
        raise CallFailed(f"{link.host} answered without a proper {name!r}: is it of this version?", kind="nonsense")
    return value


if __name__ == "__main__":
    sys.stdout.write(program().decode())
