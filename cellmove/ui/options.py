"""The options and arguments that several commands share, and what they make of a command line."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cellmove.core.move import LOSSES
from cellmove.core.request import Destination, MoveRequest
from cellmove.core.shell import OptionValue, command_line
from cellmove.core.transfer import TRANSFERS, read_rate
from cellmove.ui.invocation import FORMATS, Options

if TYPE_CHECKING:
    from cellmove.operations.probe import Probe

F = TypeVar("F", bound=Callable[..., Any])


LARGEST = 1e9  # of any number that is typed


class FiniteRange(click.FloatRange):
    """A range without ``nan`` and ``inf``, which Python takes for numbers, and nothing that no clock can count."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See ``click.FloatRange``."""
        number = super().convert(value, param, ctx)
        if not abs(number) <= LARGEST:
            self.fail(f"{value} is not a number that can be used.", param, ctx)
        return number


class Grouped(click.Command):
    """A command whose help shows its options under headings.

    :param headings: the heading that stands above an option, and above those that are declared after it
    """

    def __init__(self, *arguments: Any, headings: Mapping[str, str], **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.headings = headings

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Each group of options in a section of its own."""
        for heading, options in option_groups(self, ctx):
            with formatter.section(heading):
                formatter.write_dl([record for each in options if (record := each.get_help_record(ctx)) is not None])


def option_groups(command: click.Command, context: click.Context) -> list[tuple[str, list[click.Option]]]:
    """The options of a command by their headings; the heading is "Options" where nothing else is said."""
    headings = command.headings if isinstance(command, Grouped) else {}
    groups: list[tuple[str, list[click.Option]]] = []
    for each in command.get_params(context):
        if isinstance(each, click.Option):
            heading = headings.get(each.opts[-1], "" if groups else "Options")
            if heading:
                groups.append((heading, []))
            groups[-1][1].append(each)
    return groups


def _remember(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    """A callback that keeps an option's value for the whole command line."""

    def keep(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
        options = context.find_object(Options)
        if options is not None and value not in (None, False):
            setattr(options, name, value)

    return keep


def output_options(function: F) -> F:
    """How the result and the progress are shown."""
    for decorate in (
        click.option(
            "-q", "--quiet", is_flag=True, expose_value=False, is_eager=True, callback=_remember("quiet"),
            help="Show no progress, only the result and errors.",
        ),
        click.option(
            "-f", "--format", "form", type=click.Choice(FORMATS), expose_value=False, is_eager=True,
            callback=_remember("form"), help="How to print the result: for people, for programs, or bare values.",
        ),
    ):  # fmt: skip
        function = decorate(function)
    return function


def yes_option(function: F) -> F:
    """For the commands that ask before they write."""
    return click.option(
        "-y", "--yes", is_flag=True, expose_value=False, is_eager=True, callback=_remember("yes"),
        help="Answer the question whether to go on; for a person at a terminal.",
    )(function)  # fmt: skip


def _names(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
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
        "--transfer", type=click.Choice(TRANSFERS),
        help="How local disks travel: over ssh while the guest runs, through a temporary image, or whatever is possible. "
        "Default: as the configuration says, else auto.",
    ),
    click.option(
        "--bwlimit", metavar="RATE", callback=_rate,
        help="Stream at most this many bytes a second of each server while its guest runs, as 50M. Default: as the configuration says.",
    ),
)  # fmt: skip
"""How disks travel."""


def target_options(function: F) -> F:
    """Where a server is to go and how, and which of its guards are overridden."""
    for decorate in (
        *reversed(transfer_options),
        click.option(
            "--accept-loss", metavar="NAME[,NAME…]", multiple=True, callback=_names,
            help="Move it although this is lost: " + ", ".join(LOSSES) + ".",
        ),
        click.option("--force-locked", is_flag=True, help="Move the server although it is locked."),
        click.option(
            "--max-hosts",
            type=click.IntRange(1),
            default=None,
            metavar="N",
            help="Try at most this many of the hosts that the scheduler offers. Default: all of them.",
        ),
        click.option("--cell", metavar="CELL", help="Move to this cell; its scheduler chooses the host."),
        click.option("--host", metavar="HOST", help="Move to this compute host."),
    ):  # fmt: skip
        function = decorate(function)
    return function


def confirm_option(function: F) -> F:
    """For the commands that can go on to ``confirm``."""
    return click.option("--confirm", is_flag=True, help="Confirm at once when the guest runs at the target.")(function)


def hold_options(function: F) -> F:
    """For the commands that can wait before they stop the guest."""
    for decorate in (
        click.option(
            "--cutover-at", metavar="HH:MM",
            help="Hold it until the next time that it is so late here, or until cellmove finish, whichever comes first.",
        ),
        click.option(
            "--hold", is_flag=True,
            help="Prepare the target and go on copying what changes; stop the guest when cellmove finish is typed anywhere.",
        ),
    ):  # fmt: skip
        function = decorate(function)
    return function


def probe_option(function: F) -> F:
    """What a moved guest has to answer."""
    return click.option(
        "--probe", "probes", multiple=True, metavar="PROBE",
        help="What the guest has to answer within a minute: tcp:PORT, ping, or cmd:COMMAND, which /bin/sh runs. May be given more than once.",
    )(function)  # fmt: skip


def host_restarted_option(function: F) -> F:
    """The operator's word that nothing more comes of a call."""
    return click.option(
        "--host-restarted", is_flag=True,
        help="You have seen to it: the compute host whose call is under way was restarted since, so no more comes of it.",
    )(function)  # fmt: skip


def move_argument(function: F) -> F:
    """A move's id, or its server's name or UUID."""
    return click.argument("reference", metavar="MOVE")(function)


def pass_options(function: F) -> F:
    """Give a command the :class:`Options`, which learn what was typed."""

    @click.pass_context
    @functools.wraps(function)
    def call(context: click.Context, /, *arguments: Any, **values: Any) -> Any:
        options = context.ensure_object(Options)
        if not isinstance(context.command, click.Group):
            options.typed = typed_command(context)
            options.verb = str(context.info_name)
            options.reference = next((str(values[name]) for name in ("reference", "server") if values.get(name)), "")
            options.is_about_many = not options.reference
        return context.invoke(function, options, *arguments, **values)

    return call  # type: ignore[return-value]


def typed_command(
    context: click.Context, *, without: tuple[str, ...] = (), instead: Mapping[str, OptionValue] | None = None
) -> str:
    """The command line of the command at hand, without the options in front of the verb and those about its output.

    :param without: names of parameters that are left out
    :param instead: other values than those that were typed, by the names of parameters: UUIDs of cells
    """
    given = [
        parameter
        for parameter in context.command.params
        if parameter.expose_value
        and parameter.name not in without
        and context.get_parameter_source(str(parameter.name)) is click.core.ParameterSource.COMMANDLINE
    ]
    values = {str(parameter.name): context.params[str(parameter.name)] for parameter in given}
    values |= {name: value for name, value in (instead or {}).items() if name in values}
    arguments = [str(values[str(each.name)]) for each in given if isinstance(each, click.Argument)]
    options: dict[str, OptionValue] = {
        each.opts[-1].removeprefix("--"): values[str(each.name)] for each in given if isinstance(each, click.Option)
    }
    verb = context.command_path.removeprefix(context.find_root().command_path).split()
    return command_line(" ".join(verb), *arguments, **options)


def request_from(server: str, flavor: str | None, **given: Any) -> MoveRequest:
    """The request that a command line of ``plan``, ``resize`` or ``migrate`` makes.

    :param given: the values of :func:`target_options`, and of the other options by the names of their fields
    :raises UsageError: names that exclude each other, or that are empty, as an unset variable of a script is
    """
    for name, value in {"SERVER": server, "FLAVOR": flavor, "--cell": given["cell"], "--host": given["host"]}.items():
        if value is not None and not value.strip():
            raise click.UsageError(f"{name} is empty")
    if given["host"] and given["cell"]:
        raise click.UsageError("--host and --cell exclude each other: a host is in exactly one cell")
    if given.get("probes") and not given.get("confirm"):
        raise click.UsageError("--probe is asked before a confirm: give --confirm as well")
    destination = Destination(cell=given.pop("cell") or "", host=given.pop("host") or "")
    values = {name: value for name, value in given.items() if value is not None}
    return MoveRequest(server, flavor or "", destination, **values)


def probes_of(texts: tuple[str, ...]) -> list[Probe]:
    """Return the probes that ``--probe`` named.

    :raises Usage: a text is no probe
    """
    from cellmove.operations.probe import parse

    return [parse(text) for text in texts]
