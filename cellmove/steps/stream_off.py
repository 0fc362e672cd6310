"""The disks of a streamed move once its guest is off: the last difference, their names, and a look before the start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellmove.core.documents import NOTHING, Nothing
from cellmove.core.errors import CallFailed, CannotConnect
from cellmove.engine.action import Action, Context
from cellmove.steps import passes, stream
from cellmove.steps.action_types import (
    CHECK_DISKS,
    COPY_REST,
    PLACE_DISKS,
    SCHEDULE,
    CopiedRest,
    FileIdentity,
    FinalPass,
    PlacedDisks,
    Stamps,
    UnfinishedFiles,
)
from cellmove.steps.stream_stop import still_holds

if TYPE_CHECKING:
    from cellmove.hosts.disk_link import Link
    from cellmove.hosts.disk_survey import Disk
    from cellmove.hosts.disks import Entry


def _copy_rest(context: Context, _intent: Nothing) -> CopiedRest:
    """Nothing writes any more: one pass past the host's cache; what it wrote is read from the target's disk and compared.

    Before the stop all the rest was (:func:`cellmove.steps.stream._copy_again`); what somebody has written to since is again.
    """
    disks = stream.disks_of(context)
    began, stamps = context.clock.monotonic(), passes.stamps(passes.source(context), context, disks)

    def last_pass() -> tuple[FinalPass, list[str]]:
        early = still_holds(context, disks, stamps)
        if early is not None:
            return early, []
        own = passes.own(context, disks)
        result, wrong = passes.compared(context, own, "last pass", is_off=True, cache="direct")
        return passes.final(result), wrong

    result = passes.until_right(context, last_pass)
    compared = passes.stamps(passes.target(context), context, disks, unfinished=True)
    _require_untouched(passes.source(context), context, stamps)
    return CopiedRest(
        last_pass=result.last_pass,
        digests=result.digests,
        stopped=stamps,
        compared=compared,
        checked_seconds=round(context.clock.monotonic() - began, 2),
    )


def _require_untouched(link: Link, context: Context, stamps: Stamps) -> None:
    """See to it that the disks are what they were.

    :raises CallFailed: one was written to, or is gone
    """
    now = passes.stamps(link, context, stream.disks_of(context))
    for name, before in stamps.items():
        if now[name] != before:
            what = "changed" if now[name] else "removed"
            raise CallFailed(f"{name} on {link.host} was {what} while its guest was off: who did that?", kind="changed")


def _identities(context: Context) -> UnfinishedFiles:
    """Which files will get their names: known before, so that it can be repeated.

    A move whose journal was lost may have placed some already: then those are replaced.
    """
    from cellmove.hosts import disks

    target = passes.target(context)
    files: dict[str, FileIdentity] = {}
    over: dict[str, FileIdentity] = {}
    for disk in stream.disks_of(context):
        path = passes.path(context, disk.name)
        (unfinished,) = disks.look(target, disks.marked(path, target.move_id))
        files[disk.name] = _identity(unfinished)
        there = disks.find(target, path) if context.plan.adopted else None
        if there is not None:
            over[disk.name] = _identity(there)
    return UnfinishedFiles(files, over)


def _identity(entry: Entry) -> FileIdentity:
    return FileIdentity(entry.file.identity.device, entry.file.identity.inode)


def _place(context: Context, intent: UnfinishedFiles) -> PlacedDisks:
    """Give the files their names, each standing on what the target has."""
    from cellmove.hosts import disks

    source, target = passes.source(context), passes.target(context)
    copied = context.get(COPY_REST)
    compared = (copied.compared if copied is not None else None) or {}
    for disk in stream.disks_of(context):
        path = passes.path(context, disk.name)
        unfinished = disks.marked(path, target.move_id)
        if disks.find(target, unfinished) is not None:
            if disk.is_flattened:
                _flatten(context, disk, unfinished)
            elif disk.base and target.destination.instances_path != source.destination.instances_path:
                disks.rebase(target, unfinished, disk.base, disk.base_format)
            elif disk.name in compared:
                now = passes.stamps(target, context, [disk], unfinished=True)
                if now[disk.name] != compared[disk.name]:
                    raise CallFailed(
                        f"the copy of {disk.name} on {target.host} was changed after it was compared: who did that?",
                        kind="changed",
                    )
            disks.sync(target, unfinished)
        file, over = intent.files[disk.name], intent.over.get(disk.name)
        disks.rename(
            target,
            unfinished,
            disk.name,
            file=disks.Identity(file.device, file.inode),
            over=disks.Identity(over.device, over.inode) if over else None,
        )
        for base in passes.bases(context, [disk]):
            disks.remove(target, base.unfinished(target.move_id))
    return PlacedDisks(passes.stamps(target, context, stream.disks_of(context)))


def _flatten(context: Context, disk: Disk, unfinished: str) -> None:
    """Take an ephemeral or swap disk's base into it: the target's own of that name has other content."""
    from cellmove.hosts import disks

    target = passes.target(context)
    (base,) = passes.bases(context, [disk])
    disks.rebase(target, unfinished, base.unfinished(target.move_id), disk.base_format)
    disks.flatten(target, unfinished)


# finish


def _check_placed(context: Context, _intent: Nothing) -> Nothing:
    """Nobody has touched the files since they were compared, at either end: hours may have gone by in single steps.

    A source that died meanwhile is no reason to stay there.
    """
    try:
        _require_untouched(passes.source(context), context, context[COPY_REST].stopped)
    except CannotConnect as error:
        context.note(f"whether anybody has written to its disks at the source since cannot be seen: {error}")
    _require_untouched(passes.target(context), context, context[PLACE_DISKS].placed)
    return NOTHING


WHILE_IT_IS_OFF = (
    Action(
        COPY_REST,
        "copy the last changes and compare what lies on {target_host}",
        _copy_rest,
        applies=stream.is_streamed,
        rolls_back_move=True,
        requires=(SCHEDULE,),
    ),
    Action(
        PLACE_DISKS,
        "give the disks their names on {target_host}",
        _place,
        intend=_identities,
        applies=stream.is_streamed,
        rolls_back_move=True,
        requires=(SCHEDULE,),
    ),
)
"""For the end of prep-source. What they leave is removed with the directory (:func:`_clear`)."""

BEFORE_THE_START = (
    Action(
        CHECK_DISKS,
        "see that nobody has touched the disks since",
        _check_placed,
        applies=stream.is_streamed,
        rolls_back_move=True,
        requires=(
            SCHEDULE,
            COPY_REST,
            PLACE_DISKS,
        ),
    ),
)
"""For the beginning of finish."""

ACTIONS = (
    *stream.BEFORE_THE_CLAIM,
    *stream.WHILE_IT_RUNS,
    *stream.BEFORE_THE_STOP,
    *WHILE_IT_IS_OFF,
    *BEFORE_THE_START,
)
"""All that is done for a streamed move and for no other."""
