"""The last pass of a streamed move, begun while nova is still stopping the guest.

nova-compute answers a second or two after the hypervisor has ended the guest: it takes networks and volumes away
meanwhile (nova/compute/manager.py, ``prep_snapshot_based_resize_at_source``) and does not touch the disks. So they are
read from the moment on at which the hypervisor has closed them. Whether that pass is the last one is decided afterwards,
by :func:`still_holds`: when nobody has written to the disks since it began, and it was compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from cellmove.core.errors import CallError
from cellmove.engine.action import Context
from cellmove.steps import passes
from cellmove.steps.action_types import STOP_SOURCE, EarlyPass, Stamps, StoppedSource

if TYPE_CHECKING:
    from cellmove.hosts.disk_survey import Disk

LOOKS = 0.1
"""Seconds between two looks at whether the disks are closed; the guest is down, so each counts."""


def while_it_stops(context: Context, disks: Sequence[Disk], stop: Callable[[], None]) -> StoppedSource:
    """Have the guest stopped, and make the last pass meanwhile if the host shows when that may begin.

    :param stop: nova's call
    :param disks: of the server
    :returns: with what :func:`still_holds` wants to know, if such a pass was made
    :raises CallError: what ``stop`` raises; a pass that fails is made again later, by whoever needs it
    """
    if not _all_held(context, disks):
        stop()
        return StoppedSource()
    with ThreadPoolExecutor(1, thread_name_prefix="stop") as threads:
        stopping = threads.submit(stop)
        try:
            early = _early(context, disks, stopping)
        except CallError as error:
            context.note(f"the disks are read again once nova has stopped the guest: {error}")
            early = None
        stopping.result()
    return StoppedSource(early)


def _all_held(context: Context, disks: Sequence[Disk]) -> bool:
    """Whether each disk is seen to be held by somebody: only then does it say something that one no longer is."""
    from cellmove.hosts.disks import holders

    try:
        source = passes.source(context)
        return bool(disks) and all(holders(source, passes.path(context, disk.name)) for disk in disks)
    except CallError:
        return False


def _early(context: Context, disks: Sequence[Disk], stopping: Future[None]) -> EarlyPass | None:
    from cellmove.hosts.disks import holders

    source, own = passes.source(context), passes.own(context, disks)
    while any(holders(source, passes.path(context, disk.name)) for disk in disks):
        if stopping.done():
            return None
        context.clock.sleep(LOOKS)
    stamps = passes.stamps(source, context, disks)
    result, wrong = passes.compared(context, own, "last pass", is_off=True, cache="direct")
    final = passes.final(result)
    return None if wrong else EarlyPass(final.last_pass, final.digests, stamps)


def still_holds(context: Context, disks: Sequence[Disk], stamps: Stamps) -> EarlyPass | None:
    """What the pass made while the guest was being stopped came to, if it may count as the last one; else None.

    :param stamps: of the source's disks, now
    :raises CallError: a connection broke
    """
    stopped = context.get(STOP_SOURCE)
    early = stopped.early if stopped is not None else None
    if early is None or stamps != early.stamps:
        return None
    return early if passes.read_back(context, passes.own(context, disks), "check") == [] else None
