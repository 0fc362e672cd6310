"""The options and arguments that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypedDict, TypeVar

import click

from cellmove.core.move import LOSSES
from cellmove.core.request import Destination, MoveRequest
from cellmove.core.shell import OptionValue, command_line
from cellmove.core.transfer import TRANSFERS, read_rate
from cellmove.ui.invocation import FORMATS, Options

if TYPE_CHECKING:
    from cellmove.operations.probe import Probe

F = TypeVar("F", bound=Callable[..., object])
P = ParamSpec("P")
R = TypeVar("R")

LARGEST_NUMBER = 1e9
"""The largest number that an option accepts."""


class FiniteRange(click.FloatRange):
    """A range without ``nan``, ``inf`` and numbers beyond :data:`LARGEST_NUMBER`."""

    def convert(self, value: float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See ``click.FloatRange``."""
        number: float = super().convert(value, param, ctx)
        if not abs(number) <= LARGEST_NUMBER:
            self.fail(f"{value} is out of range.", param, ctx)
        return number


class Grouped(click.Command):
    """A command whose help shows its options under headings.

    :param headings: the heading above an option, and above those that are declared after it
    """

    def __init__(self, *arguments: Any, headings: Mapping[str, str], **attributes: Any) -> None:  # as click.Command
        super().__init__(*arguments, **attributes)
        self.headings = headings

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each group of options in a section of its own."""
        for heading, options in option_groups(self, ctx):
            records = [option.get_help_record(ctx) for option in options]
            with formatter.section(heading):
                formatter.write_dl([record for record in records if record is not None])


def option_groups(command: click.Command, context: click.Context) -> list[tuple[str, list[click.Option]]]:
    """Return the options of a command by their headings. Options without a heading are under "Options"."""
    headings = command.headings if isinstance(command, Grouped) else {}
    groups: list[tuple[str, list[click.Option]]] = []
    for parameter in command.get_params(context):
        if isinstance(parameter, click.Option):
            heading = headings.get(parameter.opts[-1], "" if groups else "Options")
            if heading:
                groups.append((heading, []))
            groups[-1][1].append(parameter)
    return groups


# options about the output


def _keep_quiet(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Options).quiet = True


def _keep_format(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.ensure_object(Options).output_format = value


def _keep_yes(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Options).yes = True


def output_options(function: F) -> F:
    """Add ``--format`` and ``--quiet``, which may stand before and after the name of a command."""
    function = click.option(
        "-q",
        "--quiet",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_keep_quiet,
        help="Show no progress, only the result and errors.",
    )(function)
    return click.option(
        "-f",
        "--format",
        type=click.Choice(FORMATS),
        expose_value=False,
        is_eager=True,
        callback=_keep_format,
        help="The format of the result: a table, JSON, or bare values.",
    )(function)


def yes_option(function: F) -> F:
    """Add ``--yes`` to a command that asks before it writes."""
    return click.option(
        "-y",
        "--yes",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_keep_yes,
        help="Answer the prompt with yes. Only valid at a terminal.",
    )(function)


# options about a move


class TargetArguments(TypedDict):
    """The values of :func:`target_options`."""

    cell: str | None
    host: str | None
    max_hosts: int | None
    force_locked: bool
    accept_loss: tuple[str, ...]
    transfer: str | None
    bwlimit: int | None


class RunArguments(TargetArguments):
    """The values of the options of ``resize`` and ``migrate``."""

    confirm: bool
    probes: tuple[str, ...]
    hold: bool
    cutover_at: str | None


def _split_names(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Names separated by commas, or given one by one; each once."""
    return tuple(dict.fromkeys(name.strip() for value in values for name in value.split(",") if name.strip()))


def _rate(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """Bytes a second."""
    try:
        return read_rate(value) if value is not None else None
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


transfer_options = (
    click.option(
        "--transfer",
        type=click.Choice(TRANSFERS),
        help="How local disks travel: stream copies them over ssh while the guest runs, image uses a temporary image, "
        "auto streams where possible. Default: the configuration, else auto.",
    ),
    click.option(
        "--bwlimit",
        metavar="RATE",
        callback=_rate,
        help="Stream at most this many bytes a second of each server while its guest runs, such as 50M. "
        "Default: the configuration.",
    ),
)
"""How disks travel."""


def target_options(function: F) -> F:
    """Add the options that say where a server goes, how, and which checks are overridden."""
    for decorate in (
        *reversed(transfer_options),
        click.option(
            "--accept-loss",
            metavar="NAME[,NAME…]",
            multiple=True,
            callback=_split_names,
            help="Move the server although this is lost: " + ", ".join(LOSSES) + ".",
        ),
        click.option("--force-locked", is_flag=True, help="Move the server although it is locked."),
        click.option(
            "--max-hosts",
            type=click.IntRange(1),
            default=None,
            metavar="N",
            help="Try at most N of the hosts that the scheduler offers. Default: all of them.",
        ),
        click.option("--cell", metavar="CELL", help="Move to this cell; the scheduler chooses the host."),
        click.option("--host", metavar="HOST", help="Move to this compute host."),
    ):
        function = decorate(function)
    return function


def confirm_option(function: F) -> F:
    """Add ``--confirm`` to a command that can go on to the step confirm."""
    return click.option("--confirm", is_flag=True, help="Confirm the move as soon as the guest runs at the target.")(
        function
    )


def hold_options(function: F) -> F:
    """Add the options of a command that can wait before it stops the guest."""
    function = click.option(
        "--cutover-at",
        metavar="HH:MM",
        help="Hold the move until the next HH:MM by the local clock, or until cellmove finish is run.",
    )(function)
    return click.option(
        "--hold",
        is_flag=True,
        help="Prepare the target and keep copying changes. Stop the guest when cellmove finish is run, "
        "on any machine that uses the same journal.",
    )(function)


def probe_option(function: F) -> F:
    """Add ``--probe``, which the guest at the target has to answer."""
    return click.option(
        "--probe",
        "probes",
        multiple=True,
        metavar="PROBE",
        help="Require the guest to answer within a minute: tcp:PORT, ping, or cmd:COMMAND, which /bin/sh runs. "
        "May be given more than once.",
    )(function)


def host_restarted_option(function: F) -> F:
    """Add ``--host-restarted``: the operator states that a call of an earlier run has ended."""
    return click.option(
        "--host-restarted",
        is_flag=True,
        help="State that the compute host was restarted after it received the call in progress, "
        "so that the call has ended.",
    )(function)


def move_argument(function: F) -> F:
    """Add the argument MOVE: a move's id, or its server's name or UUID."""
    return click.argument("reference", metavar="MOVE")(function)


# command lines


def pass_options(function: Callable[Concatenate[Options, P], R]) -> Callable[P, R]:
    """Pass a command its :class:`Options`, which learn the command line."""

    @click.pass_context
    @functools.wraps(function)
    def call(context: click.Context, /, *arguments: P.args, **values: P.kwargs) -> R:
        options = context.ensure_object(Options)
        if not isinstance(context.command, click.Group):
            options.typed = typed_command(context)
            options.verb = str(context.info_name)
            options.reference = next((str(values[name]) for name in ("reference", "server") if values.get(name)), "")
            options.is_about_many = not options.reference
        return context.invoke(function, options, *arguments, **values)

    return call


def typed_command(
    context: click.Context, *, without: tuple[str, ...] = (), instead: Mapping[str, OptionValue] | None = None
) -> str:
    """Return the command line as it was typed, without the global options and those about its output.

    :param without: names of parameters that are left out
    :param instead: values that replace the typed ones, by the names of parameters: UUIDs of cells
    """
    parameters = [
        parameter
        for parameter in context.command.params
        if parameter.expose_value
        and parameter.name not in without
        and context.get_parameter_source(str(parameter.name)) is click.core.ParameterSource.COMMANDLINE
    ]
    values = {str(parameter.name): context.params[str(parameter.name)] for parameter in parameters}
    values |= {name: value for name, value in (instead or {}).items() if name in values}
    arguments = [str(values[str(each.name)]) for each in parameters if isinstance(each, click.Argument)]
    options: dict[str, OptionValue] = {
        each.opts[-1].removeprefix("--"): values[str(each.name)]
        for each in parameters
        if isinstance(each, click.Option)
    }
    verb = context.command_path.removeprefix(context.find_root().command_path).split()
    return command_line(" ".join(verb), *arguments, **options)


def plan_request(server: str, flavor: str | None, given: TargetArguments) -> MoveRequest:
    """Return the request of a command line of ``plan``.

    :raises UsageError: names that exclude each other, or that are empty, such as an unset variable of a script
    """
    return MoveRequest(
        server,
        flavor or "",
        _destination(server, flavor, given),
        is_stepwise=True,
        force_locked=given["force_locked"],
        accept_loss=given["accept_loss"],
        max_hosts=given["max_hosts"] or 0,
        transfer=given["transfer"] or "",
        bwlimit=given["bwlimit"] or 0,
    )


def run_request(server: str, flavor: str | None, given: RunArguments) -> MoveRequest:
    """Return the request of a command line of ``resize`` or ``migrate``.

    :raises UsageError: names that exclude each other, or that are empty, such as an unset variable of a script
    """
    if given["probes"] and not given["confirm"]:
        raise click.UsageError("--probe needs --confirm: the guest is probed before the move is confirmed")
    return MoveRequest(
        server,
        flavor or "",
        _destination(server, flavor, given),
        confirm=given["confirm"],
        hold=given["hold"],
        cutover_at=given["cutover_at"] or "",
        probes=given["probes"],
        force_locked=given["force_locked"],
        accept_loss=given["accept_loss"],
        max_hosts=given["max_hosts"] or 0,
        transfer=given["transfer"] or "",
        bwlimit=given["bwlimit"] or 0,
    )


def _destination(server: str, flavor: str | None, given: TargetArguments) -> Destination:
    cell, host = given["cell"], given["host"]
    for name, value in {"SERVER": server, "FLAVOR": flavor, "--cell": cell, "--host": host}.items():
        if value is not None and not value.strip():
            raise click.UsageError(f"{name} is empty")
    if host and cell:
        raise click.UsageError("--host and --cell exclude each other: a host is in exactly one cell")
    return Destination(cell=cell or "", host=host or "")


def probes_of(texts: tuple[str, ...]) -> list[Probe]:
    """Return the probes that ``--probe`` named.

    :raises Usage: a text is no probe
    """
    from cellmove.operations.probe import parse

    return [parse(text) for text in texts]
