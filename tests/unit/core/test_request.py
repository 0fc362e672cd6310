"""Nothing of what was typed is lost on its way to the journal and into the commands that are printed."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellmove.cli import cli
from cellmove.core.clock import Clock
from cellmove.core.documents import structure, to_document
from cellmove.core.move import Move, State, next_commands
from cellmove.core.request import (
    Destination,
    MoveRequest,
    command_of,
    continued_by,
    plan_values,
    request_of,
)
from cellmove.core.shell import VERBS, GlobalOptions, command_line, quote, resume_elsewhere
from cellmove.core.transfer import TRANSFERS
from cellmove.engine.journal_open import open_journal
from cellmove.man_pages import commands
from cellmove.ui.group import subcommands
from cellmove.ui.invocation import Options
from cellmove.ui.options import plan_request, run_request, typed_command
from tests.support.commands import typed

UUID = "6f1c0a52-1b7e-4d0e-9a53-0e8f5f0f6a11"
AWKWARD = (
    "web-1", "my server", "it's", 'say "hi"', "café", "名前", "-rf", "--all", "$(reboot)", "a;b", "`x`", "a\\b", "*",
    "~", "#1", "!!", UUID, UUID.upper(), "move-ab12cd", "cellmove list", "x cellmove list y", "it's 'cellmove list'",
    "a=b", "%s", "{x}", "&", "web\u00a01", "b\u200bc", "tab\tname",
)  # fmt: skip
OUTPUT_ONLY = {"quiet", "format", "yes"}
"""How a result is shown, and the answer to a question: not part of what is asked for."""
LEAVES = {words: command for words, command in commands() if not isinstance(command, click.Group)}

PROPERTY = settings(deadline=None, database=None, max_examples=60)

names = st.one_of(
    st.sampled_from(AWKWARD),
    st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20).filter(lambda text: text.strip()),
)
maybe = st.booleans()


@st.composite
def requests(draw: st.DrawFn) -> MoveRequest:
    stepwise = draw(maybe)
    confirm = not stepwise and draw(maybe)
    where = draw(st.sampled_from(("any", "cell", "host")))
    named = draw(names)
    return MoveRequest(
        draw(names), draw(st.one_of(st.just(""), names)),
        Destination(named if where == "cell" else "", named if where == "host" else ""),
        is_stepwise=stepwise, confirm=confirm, hold=not stepwise and draw(maybe),
        cutover_at="02:30" if not stepwise and draw(maybe) else "",
        probes=draw(st.lists(st.sampled_from(("ping", "tcp:22", "cmd:/bin/check it 'all'", "-x")), max_size=3).map(tuple)) if confirm else (),
        force_locked=draw(maybe), accept_loss=draw(st.lists(st.sampled_from(("swap", "ephemeral", "-x")), unique=True).map(tuple)),
        max_hosts=draw(st.integers(0, 5)), transfer=draw(st.sampled_from(("", *TRANSFERS))), bwlimit=draw(st.sampled_from((0, 1, 1536, 50 << 20))),
    )  # fmt: skip


def parsed(words: list[str]) -> tuple[click.Context, click.Context]:
    """The contexts of the group and of the command that a command line makes, without running it."""
    options = Options()
    context = group = cli.make_context("cellmove", list(words), obj=options)
    group.invoke_without_command = True
    command: click.Command = cli
    while isinstance(command, click.Group):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None
        context = command.make_context(name, rest, parent=context)
    return group, context


def words_of(command: str) -> list[str]:
    """What a shell makes of a command line."""
    if "$'" not in command:
        found = shlex.split(command)
    else:
        printed = subprocess.run(
            ["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"}
        )
        found = printed.stdout.decode().split("\0")[:-1]
    assert found[0] == "cellmove"
    return found[1:]


def request_that(command: str) -> MoveRequest:
    """The request that typing a command makes."""
    _group, context = parsed(words_of(command))
    make_request: Any = plan_request if context.info_name == "plan" else run_request
    return make_request(context.params["server"], context.params.get("flavor"), context.params)


@given(requests())
@PROPERTY
def test_a_request_survives_the_journal_and_the_printed_command(request: MoveRequest) -> None:
    stored = json.loads(json.dumps({"other": 1, **plan_values(request)}))
    move = Move("move-ab12cd", UUID, "web-1", "resize", State.ROLLED_BACK, "", "", stored)
    assert request_of(move) == request
    assert command_of(move) == request.command
    assert request_that(request.command) == request


def test_a_request_survives_a_journal_in_a_file(tmp_path: Path) -> None:
    request = MoveRequest(
        "it's -x", "m1 large", Destination(host="-h"), confirm=True, hold=True, probes=("cmd:a 'b'", "ping"), bwlimit=7
    )
    where = str(tmp_path / "j.db")
    plan = {"source_cell": "cell1", **plan_values(request)}
    move = Move("move-ab12cd", UUID, "web-1", "resize", State.PLANNED, "t", "t", plan)
    open_journal(where, Clock().text).open_move(move)
    found = open_journal(where, Clock().text).move(move.id)
    assert found is not None
    assert request_of(found) == request
    assert request_that(command_of(found)) == request


def values_of(parameter: click.Parameter) -> st.SearchStrategy[list[str]]:
    """The words that give a parameter a value it takes."""
    kind = parameter.type
    if isinstance(kind, click.Choice):
        texts = st.sampled_from([str(choice) for choice in kind.choices])
    elif isinstance(kind, click.IntRange):
        texts = st.integers(int(kind.min or 0), 9).map(str)
    elif isinstance(kind, click.FloatRange):
        texts = st.floats(float(kind.min or 0), float(kind.max or 99), allow_nan=False).map(repr)
    elif parameter.name == "bwlimit":
        texts = st.sampled_from(("1", "50M", "1.5G", "800k/s"))
    elif isinstance(kind, click.Path):
        texts = names.filter(lambda text: not Path(text).is_dir())
    else:
        texts = names
    if isinstance(parameter, click.Argument):
        return texts.map(lambda text: [text])
    flag, many = parameter.opts[-1], 3 if parameter.multiple else 1
    if getattr(parameter, "is_flag", False):
        return st.just([flag])
    return st.lists(texts.map(lambda text: f"{flag}={text}"), min_size=1, max_size=many)


@st.composite
def typed_words(draw: st.DrawFn, path: tuple[str, ...]) -> list[str]:
    """A command line with any subset of the command's options."""
    parameters = [each for each in LEAVES[path].params if each.expose_value]
    options = [each for each in parameters if isinstance(each, click.Option) and draw(maybe)]
    given_options = [word for each in options for word in draw(values_of(each))]
    arguments: list[str] = []
    for each in parameters:
        if isinstance(each, click.Argument) and (each.required or draw(maybe)):
            arguments += draw(values_of(each))
        elif isinstance(each, click.Argument):
            break
    return [*path, *given_options, "--", *arguments]


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_command_with_any_of_its_options_is_typed_again_as_it_was(path: tuple[str, ...]) -> None:
    @given(typed_words(path))
    @settings(PROPERTY, max_examples=20)
    def holds(words: list[str]) -> None:
        _group, context = parsed(words)
        again = typed_command(context)
        _group, second = parsed(words_of(again))
        assert second.command is LEAVES[path]
        assert second.params == context.params
        assert typed_command(second) == again

    holds()


def test_only_what_is_about_the_output_is_not_repeated() -> None:
    hidden = {
        str(each.name) for command in LEAVES.values() for each in command.params if not each.expose_value
    } - {"help"}  # fmt: skip
    assert hidden == OUTPUT_ONLY


def test_every_command_is_known_where_options_are_inserted() -> None:
    assert set(VERBS) == set(subcommands(cli))


globals_ = st.builds(GlobalOptions, *[st.one_of(st.none(), names) for _ in range(4)])


@given(globals_, requests())
@PROPERTY
def test_the_options_in_front_of_the_verb_are_in_every_command(options: GlobalOptions, request: MoveRequest) -> None:
    shown = options.inserted(request.command)
    assert options.inserted(shown) == shown
    assert request_that(shown) == request
    group, _context = parsed(words_of(shown))
    wanted = (options.nova_conf, options.os_cloud, options.os_region_name, options.journal, options.config)
    assert (
        tuple(group.params[name] for name in ("nova_conf", "os_cloud", "os_region_name", "journal", "config")) == wanted
    )


def test_options_are_inserted_into_all_that_names_a_command() -> None:
    options = GlobalOptions(os_cloud="lab", journal="my j.db")
    front = "cellmove --os-cloud lab --journal 'my j.db'"
    document = {
        "next": ["cellmove resume move-1"], "server": {"name": "cellmove list"}, "count": 3, "none": None,
        "checks": [{"remedy": "continue there with cellmove resume move-1; or cellmove list"}],
        "text": "a cellmove with another journal", "mend": "mv j j.damaged && cellmove adopt web-1",
    }  # fmt: skip
    assert options.inserted_everywhere(document) == {
        "next": [f"{front} resume move-1"], "server": {"name": "cellmove list"}, "count": 3, "none": None,
        "checks": [{"remedy": f"continue there with {front} resume move-1; or {front} list"}],
        "text": "a cellmove with another journal", "mend": f"mv j j.damaged && {front} adopt web-1",
    }  # fmt: skip
    assert options.inserted("cellmove verify m1  # it's then cellmove revert m1") == (
        f"{front} verify m1  # it's then {front} revert m1"
    )
    elsewhere = resume_elsewhere("root@other:/var/lib/their j.db", "move-1")
    assert elsewhere == "cellmove --journal '/var/lib/their j.db' resume move-1"
    assert options.inserted(elsewhere) == "cellmove --os-cloud lab --journal '/var/lib/their j.db' resume move-1"
    assert GlobalOptions().inserted("cellmove list") == "cellmove list"


def test_a_password_is_not_printed() -> None:
    shown = GlobalOptions(journal="mysql+pymysql://op:s3cret@db/moves").inserted("cellmove list")
    assert shown == "cellmove --journal 'mysql+pymysql://op:***@db/moves' list"
    there = resume_elsewhere("mysql://db/moves", "move-1")
    assert there == "cellmove --journal mysql://USER:PASSWORD@db/moves resume move-1"


@given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=12))
@PROPERTY
def test_a_quoted_word_is_one_word_of_a_shell_and_printable(word: str) -> None:
    assert quote(word).isprintable()
    assert words_of(f"cellmove {quote(word)}") == [word]


def test_numbers_are_not_rounded_and_zero_is_a_value() -> None:
    assert command_line("audit", older_than=0.0) == "cellmove audit --older-than 0"
    assert command_line("audit", older_than=12.3456789) == "cellmove audit --older-than 12.3456789"
    assert command_line("drain-cell", "c", ahead=0, limit=None, no_cordon=False) == "cellmove drain-cell c --ahead 0"


@pytest.mark.parametrize(
    ("goal_state", "command"),
    [
        ("finished", "cellmove migrate web-1 --cell cell2"),
        ("confirmed", "cellmove migrate web-1 --cell cell2 --confirm"),
    ],
)
def test_a_journal_without_requests_is_read(goal_state: str, command: str) -> None:
    plan = {"command": "cellmove migrate web-1 --cell cell2"}
    move = Move("move-ab12cd", UUID, "web-1", "migration", State.ROLLED_BACK, "", "", plan, goal_state)
    assert request_of(move) is None
    assert command_of(move) == command
    assert command_of(Move("move-ab12cd", UUID, "web-1", "migration", State.PLANNED, "", "")) == ""


def test_a_journal_of_a_newer_version_is_read() -> None:
    document = to_document(MoveRequest("web-1", destination=Destination("cell2"))) | {"colour": "red"}
    document["destination"]["rack"] = 7
    assert structure(MoveRequest, document, "the request") == MoveRequest("web-1", destination=Destination("cell2"))
    assert structure(MoveRequest, {"server": "web-1"}, "the request") == MoveRequest("web-1")


def test_a_later_command_keeps_what_shaped_the_plan() -> None:
    planned = MoveRequest(
        "web-1", "m1", Destination("cell2"), is_stepwise=True, accept_loss=("swap",), max_hosts=2, force_locked=True
    )
    later = MoveRequest(UUID, "m1", confirm=True, hold=True)
    assert continued_by(planned, later).command == (
        f"cellmove resize {UUID} m1 --cell cell2 --force-locked --accept-loss swap --max-hosts 2 --hold --confirm"
    )


def test_a_drain_names_the_first_of_its_cells() -> None:
    request = MoveRequest(UUID, destination=Destination(cells=("cell3", "cell2")))
    assert request.command == f"cellmove migrate {UUID} --cell cell3"
    assert structure(MoveRequest, json.loads(json.dumps(to_document(request))), "the request") == request


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("resize", "web-1", ""), "FLAVOR is empty"),
        (("migrate", ""), "SERVER is empty"),
        (("migrate", "web-1", "--cell", " "), "--cell is empty"),
        (("plan", "web-1", "--host="), "--host is empty"),
        (("migrate", "web-1", "--probe", "ping"), "--probe needs --confirm"),
        (("migrate", "web-1", "--confirm", "--probe", "nonsense"), "'nonsense' is not a probe"),
    ],
)
def test_a_value_that_a_script_left_empty_is_refused(words: tuple[str, ...], why: str, tmp_path: Path) -> None:
    env: dict[str, Any] = {"CELLMOVE_JOURNAL": str(tmp_path / "j.db"), "HOME": str(tmp_path)}
    result = typed(*words, env=env)
    assert result.exit_code == 2
    assert why in result.stderr
    assert not (tmp_path / "j.db").exists()


def test_the_next_command_of_a_drain_names_its_cell_by_uuid() -> None:
    record = Move("drain-ab12cd", UUID, "old cell", "drain", State.DRAINING, "", "")
    assert next_commands(record, None) == (f"cellmove drain-cell {UUID}",)
