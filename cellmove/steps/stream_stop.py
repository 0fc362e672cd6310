"""The last pass of a streamed move, begun while nova is still stopping the guest.

nova-compute answers a second or two after the hypervisor has ended the guest: it takes networks and volumes away
meanwhile (nova/compute/manager.py, ``prep_snapshot_based_resize_at_source``) and does not touch the disks. So they are
read from the moment on at which the hypervisor has closed them. Whether that pass is the last one is decided afterwards,
by :func:`still_holds`: when nobody has written to the disks since it began, and it was compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from cellmove.core.errors import CallError
from cellmove.engine.action import Context
from cellmove.hosts import disk_survey
from cellmove.steps import passes

if TYPE_CHECKING:
    from cellmove.hosts.disk_survey import Disk

LOOKS = 0.1
"""Seconds between two looks at whether the disks are closed; the guest is down, so each counts."""


def while_it_stops(context: Context, stop: Callable[[], None]) -> Mapping[str, Any]:
    """Have the guest stopped, and make the last pass meanwhile if the host shows when that may begin.

    :param stop: nova's call
    :returns: what :func:`still_holds` wants to know, under ``early``; nothing where no such pass was made
    :raises CallError: what ``stop`` raises; a pass that fails is made again later, by whoever needs it
    """
    disks = disk_survey.from_facts(context.facts)
    if not _all_held(context, disks):
        stop()
        return {}
    with ThreadPoolExecutor(1, thread_name_prefix="stop") as threads:
        stopping = threads.submit(stop)
        try:
            early = _early(context, disks, stopping)
        except CallError as error:
            context.note(f"the disks are read again once nova has stopped the guest: {error}")
            early = {}
        stopping.result()
    return {"early": early} if early else {}


def _all_held(context: Context, disks: Sequence[Disk]) -> bool:
    """Whether each disk is seen to be held by somebody: only then does it say something that one no longer is."""
    from cellmove.hosts.disks import holders

    try:
        source = passes.source(context)
        return bool(disks) and all(holders(source, passes.path(context, disk.name)) for disk in disks)
    except CallError:
        return False


def _early(context: Context, disks: Sequence[Disk], stopping: Future[None]) -> Mapping[str, Any]:
    from cellmove.hosts.disks import holders

    source, own = passes.source(context), passes.own(context, disks)
    while any(holders(source, passes.path(context, disk.name)) for disk in disks):
        if stopping.done():
            return {}
        context.clock.sleep(LOOKS)
    stamps = passes.stamps(source, context, disks)
    result, wrong = passes.compared(context, own, "last pass", is_off=True, cache="direct")
    return {} if wrong else {"stamps": stamps, **passes.final(result)}


def still_holds(context: Context, disks: Sequence[Disk], stamps: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the pass made while the guest was being stopped came to, if it may count as the last one; else nothing.

    :param stamps: of the source's disks, now
    :raises CallError: a connection broke
    """
    early: Mapping[str, Any] = context.facts.get("early") or {}
    if not early or stamps != early["stamps"]:
        return {}
    return early if passes.read_back(context, passes.own(context, disks), "check") == [] else {}
