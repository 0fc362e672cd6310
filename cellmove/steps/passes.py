"""The two ends of a streamed move, and a pass from one to the other: what all that moves its disks is made of."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from cellmove.core.errors import CallFailed, CallUncertain
from cellmove.engine.action import Context
from cellmove.steps import endpoints
from cellmove.steps.action_types import FinalPass, PassFigures, Stamp

if TYPE_CHECKING:
    from cellmove.hosts.disk_link import Link
    from cellmove.hosts.disk_survey import Disk
    from cellmove.hosts.disk_transfer import Cache, Observer, PassResult, Progress, Transfer

MIB = 1 << 20
BROKEN = 3
"""How often a broken connection is made anew during one pass."""

T = TypeVar("T")


def source(context: Context) -> Link:
    """The connection to the host where the guest is."""
    return context.gateway.links.to(context.plan.source_host, endpoints.server_id(context), context.move.id)


def target(context: Context) -> Link:
    """The connection to the host where it goes."""
    return context.gateway.links.to(endpoints.target_host(context), endpoints.server_id(context), context.move.id)


def path(context: Context, name: str) -> str:
    """Where a file of the server lies, at either end."""
    return f"{endpoints.server_id(context)}/{name}"


def own(context: Context, disks: Sequence[Disk]) -> list[Transfer]:
    """The server's own files."""
    from cellmove.hosts.disk_transfer import Transfer

    return [Transfer(path(context, disk.name)) for disk in disks]


def bases(context: Context, disks: Sequence[Disk]) -> list[Transfer]:
    """The bases that are taken into their overlays later: each has a copy of its own, beside the overlay."""
    from cellmove.hosts.disk_transfer import Transfer

    return [Transfer(disk.base, to=path(context, f"{disk.name}.base")) for disk in disks if disk.is_flattened]


def run(
    context: Context, transfers: Sequence[Transfer], what: str, *, is_off: bool = False, cache: Cache = "keep"
) -> PassResult:
    """A pass.

    :param what: it is, for whoever watches
    :param is_off: the guest is: nothing may change meanwhile, nothing limits or breaks it off
    :raises CallError: see :func:`cellmove.hosts.disk_pass.run_pass`
    """
    from cellmove.hosts.disk_pass import run_pass

    return run_pass(
        source(context),
        target(context),
        transfers,
        clock=context.clock,
        cache=cache,
        still=is_off,
        bwlimit=0 if is_off else context.plan.bwlimit or 0,
        observer=watch(context, what, may_end=not is_off),
    )


def read_back(context: Context, transfers: Sequence[Transfer], what: str) -> list[str] | None:
    """The files of which the target's disk does not have what was sent; None when no pass of this connection went before.

    :raises CallError: see :func:`cellmove.hosts.disk_pass.read_back`
    """
    from cellmove.hosts import disk_pass

    wrong = disk_pass.read_back(
        source(context), target(context), transfers, clock=context.clock, observer=watch(context, what)
    )
    return None if wrong is None else [each.rpartition("/")[2] for each in wrong]


def compared(
    context: Context, transfers: Sequence[Transfer], what: str, *, is_off: bool = False, cache: Cache = "keep"
) -> tuple[PassResult, list[str]]:
    """A pass, and the files of which the target's disk does not have what was sent.

    :raises CallError: as :func:`run` and :func:`read_back`
    """
    result = run(context, transfers, what, is_off=is_off, cache=cache)
    wrong = read_back(context, transfers, "check")
    if wrong is None:
        raise CallUncertain("a connection was lost before what was copied could be compared")
    return result, wrong


def until_right(context: Context, do: Callable[[], tuple[T, list[str]]]) -> T:
    """Do something that sends and compares, and once more if that did not do.

    :param do: gives a result, and the files that are not what was sent
    :raises CallFailed: the target's storage does not keep them
    """
    result, wrong = again(context, do)
    if wrong:
        tell_wrong(context, wrong)
        result, wrong = again(context, do)
    if wrong:
        raise CallFailed(
            f"{', '.join(wrong)} on {endpoints.target_host(context)} is not what was sent, twice: look at its storage",
            kind="damaged",
        )
    return result


def tell_wrong(context: Context, wrong: Sequence[str]) -> None:
    """Say which files differ; the next pass mends them."""
    context.note(f"{', '.join(wrong)}: what lies at the target is not what was sent; it is sent again")


def stamps(link: Link, context: Context, disks: Sequence[Disk], *, unfinished: bool = False) -> dict[str, Stamp | None]:
    """By which it is seen, later, that nobody has written to the disks.

    :param unfinished: to the copies that have no name yet
    """
    from cellmove.hosts.disks import find, marked

    found: dict[str, Stamp | None] = {}
    for disk in disks:
        there = path(context, disk.name)
        entry = find(link, marked(there, link.move_id) if unfinished else there)
        found[disk.name] = Stamp(entry.file.size, entry.file.mtime_ns) if entry is not None else None
    return found


def watch(context: Context, what: str, *, may_end: bool = False) -> Observer:
    """Tell how far it is, as a line of text.

    :param may_end: a signal breaks it off: what was copied stays, and the next pass goes on from there
    """

    def tell(progress: Progress) -> None:
        if may_end:
            context.leave_if_asked()
        done, total, rate = progress.done // MIB, max(progress.total, progress.done) // MIB, progress.rate / MIB
        left = f", {progress.eta:.0f} s left" if progress.eta is not None and progress.done < progress.total else ""
        sent = progress.sent // MIB
        context.progress(f"{what}: {done} of {total} MiB read, {sent} MiB sent, {rate:.0f} MiB/s{left}")

    return tell


def again(context: Context, do: Callable[[], T]) -> T:
    """Go on after a connection broke, a few times: the next one goes on from what is at the target."""
    for pause in itertools.islice(context.clock.waits(), BROKEN):
        try:
            return do()
        except CallUncertain as error:
            context.note(f"{error}; connecting again")
            context.clock.sleep(pause)
    return do()


def figures(result: PassResult) -> PassFigures:
    """What the journal keeps of a pass."""
    return PassFigures(result.read, result.sent, round(result.seconds, 2))


def final(result: PassResult) -> FinalPass:
    """What the journal keeps of the last one."""
    return FinalPass(figures(result), {file.path.rpartition("/")[2]: file.digest for file in result.files})
