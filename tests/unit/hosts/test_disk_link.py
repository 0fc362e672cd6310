"""What a person is told when ssh, sudo or Python do not do their part; no ssh is needed to say so."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from cellmove.core.errors import CallError, CallFailed, CallUncertain, CannotConnect
from cellmove.hosts import disk_archive, disk_link, disks
from cellmove.hosts.disk_link import connect
from cellmove.hosts.disk_ssh import Destination, ssh_command
from tests.support.disk_harness import LOCAL, MOVE, host

CHANGED = """@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
Host key for h has changed and you have requested strict checking.
Host key verification failed.
"""

SAYS = {
    "its host key is not known here": ("No ED25519 host key is known for h and you have requested strict checking.\nHost key verification failed.", 255),
    "find out why before anything else": (CHANGED, 255),
    "the ssh configuration cannot be used (ssh.config of config.toml": ("/x/config: line 1: Bad configuration option: foo\n/x/config: terminating, 1 bad configuration options", 255),
    "or the user's own)": ("Can't open user config file /x/config: No such file or directory", 255),
    "it accepts no key of this user": ("me@h: Permission denied (publickey,password).", 255),
    "its name cannot be resolved": ("ssh: Could not resolve hostname h: Name or service not known", 255),
    "it cannot be reached": ("ssh: connect to host h port 22: Connection refused", 255),
    "sudo asks for a password there": ("sudo: a password is required", 1),
    "sudo does not allow it there": ("Sorry, user me is not allowed to execute '/usr/bin/python3' as root on h.\nsudo: not allowed", 1),
    "there is no python3 there": ("bash: line 1: python3: command not found", 127),
    "is older than 3.6": ('  File "cellmove-disks", line 3\nSyntaxError: invalid syntax', 1),
    "the agent does not run there": ("something else entirely", 3),
}  # fmt: skip


def says(words: str, code: int, *, stdout: str = "") -> tuple[str, ...]:
    return ("sh", "-c", f"printf %s {shlex.quote(stdout)}; printf '%s\\n' {shlex.quote(words)} >&2; exit {code}")


def test_the_system_s_ssh_is_started_as_the_operator_configured_it() -> None:
    command = ssh_command(
        Destination("h", user="me", port=2222, ssh_config=Path("/x/config"), become=("sudo", "-n"), alive=7)
    )
    assert command[0] == "ssh"
    assert {"-T", "-oBatchMode=yes", "-oStrictHostKeyChecking=yes", "-oServerAliveInterval=7"} <= set(command)
    assert command[-8:-1] == ["/x/config", "-p", "2222", "-l", "me", "--", "h"]
    assert shlex.split(command[-1]) == ["sudo", "-n", "python3", "-I", "-c", disk_archive.BOOTSTRAP]
    assert not [word for word in command if "cipher" in word.lower() or "password" in word.lower()]
    assert "-F" not in ssh_command(Destination("h"))


@pytest.mark.parametrize("destination", [Destination("-oProxyCommand=x"), Destination(""), Destination("h", user="-x")])
def test_a_name_is_never_an_option(destination: Destination) -> None:
    with pytest.raises(CannotConnect, match="not a name that ssh can connect to"):
        ssh_command(destination)


@pytest.mark.parametrize("meaning", SAYS)
def test_what_ssh_says_is_told_with_what_it_means_and_what_to_try(meaning: str) -> None:
    words, code = SAYS[meaning]
    destination = Destination("h", ssh_config=Path("/x/config"), become=("sudo", "-n"))
    with pytest.raises(CannotConnect) as told, connect(destination, MOVE, command=says(words, code)):
        pass
    assert meaning in str(told.value)
    assert str(told.value).startswith("h: ")
    assert str(told.value).endswith("; try: ssh -F /x/config -- h sudo -n true")
    assert len(str(told.value).splitlines()) == 1


def test_what_is_said_is_scrubbed() -> None:
    with pytest.raises(CannotConnect) as told, connect(Destination("h"), MOVE, command=says("password=hunter2", 1)):
        pass
    assert "hunter2" not in str(told.value)


def test_a_login_that_is_not_meant_for_commands_is_told() -> None:
    command = says("", 1, stdout="This account is currently not available.\n")
    with (
        pytest.raises(CannotConnect, match="This account is currently not available"),
        connect(Destination("h"), MOVE, command=command),
    ):
        pass


def test_a_machine_without_ssh_is_told() -> None:
    with (
        pytest.raises(CannotConnect, match="install the OpenSSH client"),
        connect(Destination("h"), MOVE, command=["/nowhere/ssh"]),
    ):
        pass


def test_a_shell_that_likes_to_talk_does_no_harm(tmp_path: Path) -> None:
    talking = ("sh", "-c", 'echo "Welcome to h!"; echo "cellmove-disks is what?"; exec "$@"', "sh", *LOCAL)
    with host(tmp_path, command=talking) as link:
        assert disks.facts(link)
    endless = ("sh", "-c", "exec yes hello")
    with pytest.raises(CannotConnect, match="hello"), host(tmp_path, command=endless):
        pass


ODD = (
    "import sys; i = sys.stdin.buffer; i.read(int(i.readline().split()[2]));"
    "sys.stdout.write('cellmove-disks 1 ready\\n'); sys.stdout.flush(); {0};"
    "sys.stdout.flush(); i.read()"  # it stays: one that has gone before it is asked is another case
)


@pytest.mark.parametrize(
    ("does", "words"),
    [
        ("sys.stdout.write('HTTP/1.1 400 Bad Request' * 9)", "cannot be parsed"),
        ("sys.stdout.buffer.write(b'cmD1' + bytes(12))", "cannot be parsed"),
        ("sys.stdout.buffer.write(b'cmD1\\0\\0\\0\\2\\0\\0\\0\\0\\0\\0\\0\\0{}')", "cannot be parsed"),
        ("sys.stdout.buffer.write(b'cmD1\\0\\0\\0\\2\\0\\0\\0\\0\\x1c\\x63\\x25\\xa6[]')", "cannot be parsed"),
        ("sys.exit('out of memory')", "broke during hello (out of memory)"),
        ("import time; time.sleep(30)", "was silent for too long during hello"),
    ],
)
def test_an_end_that_talks_nonsense_or_nothing_is_told(does: str, words: str) -> None:
    command = (sys.executable, "-c", ODD.format(does))
    with (
        pytest.raises(CallError) as told,
        connect(Destination("h"), MOVE, command=command, silence=1),
    ):
        pass
    assert words in str(told.value)
    assert isinstance(told.value, CallFailed if "parsed" in words else CallUncertain)
    assert "Traceback" not in str(told.value)


def test_another_version_is_told() -> None:
    command = ("sh", "-c", "echo cellmove-disks 2 ready; cat >/dev/null")
    with pytest.raises(CannotConnect, match="has another version"), connect(Destination("h"), MOVE, command=command):
        pass


def test_an_answer_that_lacks_something_is_nonsense_not_a_crash(tmp_path: Path) -> None:
    with host(tmp_path) as link:
        answer = link.request("facts")
        assert disk_link.expect(link, answer, "free", int) > 0
        for name, kind in (("free", str), ("missing", int)):
            with pytest.raises(CallFailed) as told:
                disk_link.expect(link, answer, name, kind)
            assert told.value.kind == "nonsense"
