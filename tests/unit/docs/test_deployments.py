"""docs/deployments.md and the Containerfile: what they name is there, and the rights are those that are tested."""

from __future__ import annotations

import re
import shlex
import uuid
from importlib.metadata import version
from pathlib import Path

import pytest
from click import Context, Group

from cellmove.cli import cli
from cellmove.core import settings
from cellmove.hosts import rabbit_connection

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "deployments.md").read_text(encoding="utf-8")
CONTAINER = (ROOT / "Containerfile").read_text(encoding="utf-8")
COMMANDS = [line.partition("#")[0].strip() for line in PAGE.splitlines() if re.match(r"\s{4,}cellmove ", line)]
COMMANDS += re.findall(r"`(cellmove [a-z][^`]*)`", PAGE)


def test_the_page_is_short() -> None:
    assert len(PAGE.split()) <= 1400


def test_the_grants_are_those_that_the_lab_executes() -> None:
    assert f"```sql\n{(ROOT / 'docs' / 'database-grants.sql').read_text(encoding='utf-8').strip()}\n```" in PAGE


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_parses(line: str) -> None:
    words = shlex.split(line)[1:]
    assert isinstance(cli, Group)
    # click keeps the option for help that it makes first, so the context has to be the one of the program.
    top = Context(cli, info_name="cellmove", help_option_names=cli.context_settings["help_option_names"])
    command = cli.get_command(top, words[0])
    assert command is not None
    assert command.make_context(words[0], words[1:], parent=top).params


def test_there_are_commands_to_parse() -> None:
    assert len(COMMANDS) >= 4


@pytest.mark.parametrize("name", sorted(set(re.findall(r"CELLMOVE_\w+", PAGE + CONTAINER))))
def test_every_variable_is_read(name: str) -> None:
    assert name in {*settings.ENVIRONMENT.values(), "CELLMOVE_CONFIG"}


def test_the_permissions_match_the_names_that_are_used() -> None:
    plain, notifying = [re.findall(r"'(\^[^']*)'", part) for part in PAGE.split("set_permissions")[1:]]
    reply = f"reply_{uuid.uuid4().hex}"
    assert rabbit_connection.OWN_OPTIONS["use_queue_manager"] == "false", "reply queues have random names"
    topics = ("notifications.info", "versioned_notifications.info")
    allowed = [[bool(re.search(pattern, name)) for name in ("nova", reply, *topics)] for pattern in plain]
    assert allowed == [[True, True, False, False], [True, False, False, False], [False, True, False, False]]
    allowed = [[bool(re.search(pattern, name)) for name in ("nova", reply, *topics)] for pattern in notifying]
    assert allowed == [[True, True, True, True], [True, False, True, True], [True, True, False, False]]
    for pattern in (*plain, *notifying):
        assert not re.search(pattern, "compute.host1"), "queues of nova's services are not touched"


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)\)", PAGE))
def test_every_link_leads_somewhere(link: str) -> None:
    assert (ROOT / "docs" / link).exists()


def test_the_container_installs_the_wheel_that_is_built() -> None:
    copied = re.search(r"^COPY (\S+) (\S+)$", CONTAINER, re.MULTILINE)
    assert copied is not None
    assert Path(f"dist/cellmove-{version('cellmove')}-py3-none-any.whl").match(copied[1])
    assert f"pip install --no-cache-dir {copied[2]}{Path(copied[1]).name}" in CONTAINER
    volume = re.search(r"^VOLUME (\S+)$", CONTAINER, re.MULTILINE)
    assert volume is not None
    assert f"CELLMOVE_JOURNAL={volume[1]}/" in CONTAINER
    assert "XDG_CONFIG_HOME=/etc " in CONTAINER, "a file that CELLMOVE_CONFIG named would have to be there"
    assert settings.config_path({"XDG_CONFIG_HOME": "/etc"}) == Path("/etc/cellmove/config.toml")
    assert f"--volume {volume[1]}:{volume[1]}" in PAGE
