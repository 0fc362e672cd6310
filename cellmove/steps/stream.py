"""The disks travel over ssh while the guest runs: what is done while it does.

nova-compute keeps a disk that it finds in place of the one it would make (nova/virt/libvirt/driver.py, ``spawn``), so
prep_snapshot_based_resize_at_source and finish_snapshot_based_resize_at_dest are called without a snapshot, and the
files are put where the target expects them. Everything here may be repeated: files carry this move's mark until they
are whole. What follows once the guest is off: :mod:`cellmove.steps.stream_off`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from cellmove.checks.suitability import STARTS_FROM_SNAPSHOT, too_old
from cellmove.core import ownership
from cellmove.core.documents import NOTHING, Nothing, to_document
from cellmove.core.errors import CallError, CallFailed, CannotConnect, NotFound
from cellmove.core.transfer import AUTO, IMAGE, STREAM
from cellmove.db import state
from cellmove.engine.action import Action, Context
from cellmove.hosts import disk_survey
from cellmove.steps import endpoints, passes, undo_checks
from cellmove.steps.action_types import (
    COPY_AGAIN,
    COPY_RUNNING,
    LOOK_AT_DISKS,
    MAKE_DIRECTORY,
    SCHEDULE,
    SEED_BASE,
    CopiedAgain,
    CopiedDisks,
    MarkedTransfer,
    SeededBases,
    SurveyedDisks,
    TransferChoice,
)

if TYPE_CHECKING:
    from cellmove.core.documents import Document
    from cellmove.engine.record import MoveRecord
    from cellmove.hosts.disk_survey import Disk
    from cellmove.hosts.disk_transfer import PassResult, Transfer

C = TypeVar("C", bound=TransferChoice)

DANGER = "danger"
"""The kind of a failure for which a server must not go to that host, through an image neither."""


def is_streamed(context: Context) -> bool:
    """Whether this move's disks are streamed, as far as is known by now."""
    return transfer_of(context.record) == STREAM


def transfer_of(record: MoveRecord) -> str:
    """How the disks travel, as far as is known by now: an action may decide otherwise than the plan."""
    known = (record.get(SEED_BASE), record.get(LOOK_AT_DISKS))
    return next((each.transfer for each in known if each is not None and each.transfer), record.plan.transfer)


def disks_of(context: Context) -> tuple[Disk, ...]:
    """The disks that are streamed, as they were seen last; none where a rebuilt journal does not know them."""
    again, looked = context.get(COPY_AGAIN), context.get(LOOK_AT_DISKS)
    return again.disks if again is not None else (looked.disks or ()) if looked is not None else ()


def is_imaged(context: Context) -> bool:
    """Whether they go through a temporary image."""
    return not context.plan.volume_backed and not is_streamed(context)


def require_kept_disk(context: Context) -> None:
    """Make sure that the target host will start the guest from its own disk: see :mod:`cellmove.checks.suitability`.

    :raises CallFailed: nova-compute there would build the root disk from the original image
    """
    version = endpoints.target_version(context) if is_imaged(context) else STARTS_FROM_SNAPSHOT
    if version < STARTS_FROM_SNAPSHOT:
        raise CallFailed(
            f"nova-compute on {endpoints.target_host(context)} {too_old(version)}; move it with --transfer stream",
            kind="root-disk-lost",
        )


def in_mark(context: Context) -> Document:
    """What the server's mark says of it, so that a journal that is written anew knows."""
    if not is_streamed(context):
        return {}
    plan = context.plan
    return to_document(MarkedTransfer(STREAM, plan.transfer_wish, plan.only_streamed, plan.bwlimit))


# prep-dest: while the guest runs


def _look(context: Context, _intent: Nothing) -> SurveyedDisks:
    """Whether these two hosts can do it. What ``auto`` comes to is decided here, and stands in the journal."""
    found = _or_image(context, SurveyedDisks, lambda: _looked(context), lambda: None)
    if found.transfer == STREAM:
        _mark(context, streamed=True)  # at an earlier host it may have come to an image
    return found


def _looked(context: Context) -> SurveyedDisks:
    server = endpoints.server_id(context)
    survey = disk_survey.survey_source(passes.source(context), server, context.plan.image_ref)
    if not survey.hindrances:
        survey = disk_survey.survey_target(passes.target(context), passes.source(context), server, survey)
    if survey.hindrances:
        raise CallFailed("; ".join(survey.hindrances), kind=DANGER if survey.dangers else "cannot-stream")
    return SurveyedDisks(transfer=STREAM, disks=survey.disks)


def _or_image(context: Context, kind: type[C], do: Callable[[], C], clear: Callable[[], None]) -> C:
    """Go on through an image where that was left to us, and nothing is lost by it that was promised to travel.

    :param kind: the type of the result
    :param clear: removes what ``do`` may have left at the target
    """
    try:
        return do()
    except (CallFailed, CannotConnect) as error:
        if context.plan.transfer_wish != AUTO or getattr(error, "kind", "") == DANGER:
            raise
        version = endpoints.target_version(context)
        if version < STARTS_FROM_SNAPSHOT:
            host = endpoints.target_host(context)
            raise CallFailed(
                f"{error}; and through an image: nova-compute on {host} {too_old(version)}", kind="cannot-stream"
            ) from None
        carried = context.plan.only_streamed
        if carried:
            raise CallFailed(
                f"{error}; and through an image its {', '.join(carried)} would be lost"
                f" (--transfer image --accept-loss {','.join(carried)})",
                kind="cannot-stream",
            ) from None
        try:
            clear()
        except CallError:
            raise error from None  # rolling back insists on it
        _mark(context, streamed=False)
        context.note(f"the disks go through an image: {error}")
        return kind(transfer=IMAGE, transfer_why=str(error))


def _mark(context: Context, *, streamed: bool) -> None:
    """Let the server's mark say what it came to, in every cell that has one."""
    server, told = endpoints.server_id(context), ownership.text_of(in_mark(context)) if streamed else None
    for database in (endpoints.source(context), endpoints.target(context)):
        there = state.read_system_metadata(database, server)
        if ownership.move_id_of(there.get(ownership.KEY)) == context.move.id and there.get(ownership.TRANSFER) != told:
            with state.transaction(database.engine, database.name) as connection:
                state.set_system_metadata(
                    connection, database, server, ownership.TRANSFER, told, endpoints.now(context)
                )


def _seed_bases(context: Context, _intent: Nothing) -> SeededBases:
    return _or_image(
        context,
        SeededBases,
        lambda: passes.again(context, lambda: _seeded(context)),
        lambda: _unseed(context, NOTHING, None),
    )


def _unseed(context: Context, _intent: object, _result: object) -> None:
    """Remove what is unfinished. A base that was brought stays: other servers may stand on it by now, and nova's image
    cache removes it when none does.
    """
    from cellmove.hosts import disks

    undo_checks.require_guest_at_source(context)
    unfinished = disks.marked(disk_survey.base_of_image(context.plan.image_ref), context.move.id)
    try:
        disks.remove(passes.target(context), unfinished)
    except NotFound:
        return  # there is no _base at all


def _seeded(context: Context) -> SeededBases:
    """The image that the root disk stands on has to be the same at the target, byte for byte.

    nova would fetch it during finish, and only if glance still has it.
    """
    disks = disks_of(context)
    seeded = [disk.base for disk in disks if disk.base and not disk.is_flattened and _seed(context, disk.base)]
    return SeededBases(seeded=tuple(seeded))


def _seed(context: Context, base: str) -> bool:
    """Bring a base over unless it is there.

    :returns: whether it was brought
    :raises CallFailed: another one is there
    """
    from cellmove.hosts import disk_comparison, disk_transfer, disks

    source, target = passes.source(context), passes.target(context)
    watch = passes.watch(context, "base image")
    transfer = disk_transfer.Transfer(base)
    brought = False
    if not disks.find(target, base):
        disks.mkdir(target, "_base")
        # Not as of a guest that is off: nova's image cache touches what is in use (imagecache.py, _mark_in_use).
        made = passes.run(context, [transfer], "base image", cache="drop").files[0]
        unfinished = transfer.unfinished(target.move_id)
        if disk_comparison.digest_of(target, unfinished, observer=watch) != made.digest:
            disks.remove(target, unfinished)
            raise CallFailed(f"{base} came over damaged", kind="damaged")
        try:
            disks.rename(target, unfinished, base.rpartition("/")[2], file=made.made.identity)
            brought = True
        except CallFailed as error:
            if error.kind != "exists":
                raise
            disks.remove(target, unfinished)  # somebody else made it meanwhile
    if not brought:
        compared = disk_comparison.compare(source, target, transfer, path=base, cache="drop", observer=watch)
        if not compared.same:
            raise CallFailed(
                f"{base} is another file on {target.host} than on {source.host} (from byte {compared.differs_at} on):"
                " the overlay cannot stand on it",
                kind="cannot-stream",
            )
    return brought


def _make_directory(context: Context, _intent: Nothing) -> Nothing:
    from cellmove.hosts import disks

    disks.mkdir(passes.target(context), endpoints.server_id(context))
    return NOTHING


def _clear(context: Context, _intent: object, _result: object) -> None:
    """Remove what this move left at the target, and the directory if that was all.

    nova removes it as well when it gives up a guest there, so it may be gone. Files that got their names already are
    removed here and not sooner: by now the guest runs at the source again, whether or not the target answers.
    """
    from cellmove.hosts import disks

    undo_checks.require_guest_at_source(context)
    target, server = passes.target(context), endpoints.server_id(context)
    try:
        entries = disks.look(target, server)
    except NotFound:
        return
    placed = [entry for entry in entries if disk_survey.CARRIED.match(entry.name)]
    if placed and disks.share_storage(passes.source(context), target):
        raise CallFailed(f"{target.host} has the instances_path of the source: the server's own disks are not removed")
    for entry in placed:
        disks.remove(target, f"{server}/{entry.name}", file=entry.file.identity)
    for entry in entries:
        if disk_survey.is_ours(entry.name, target.move_id):
            disks.remove(target, f"{server}/{entry.name}")
    left = [entry.name for entry in disks.look(target, server)]
    if left:
        context.note(f"{server} on {target.host} is not empty and stays: {', '.join(left[:5])}")
        return
    _made, folder = disks.mkdir(target, server)
    disks.rmdir(target, server, file=folder.identity)


def _copy_running(context: Context, _intent: Nothing) -> CopiedDisks:
    """Passes until what changes between two is little, or no longer gets less."""
    disks = disks_of(context)
    for base in passes.bases(context, disks):
        passes.again(context, lambda base=base: passes.run(context, [base], "bases"))  # type: ignore[misc]
    done, why = _passes(context, passes.own(context, disks), "pass")
    context.note(f"{len(done)} {'pass' if len(done) == 1 else 'passes'}: {why}")
    return CopiedDisks(tuple(passes.figures(each) for each in done))


def _passes(context: Context, files: Sequence[Transfer], what: str) -> tuple[list[PassResult], str]:
    """Passes while they are worth it, and why there is no other one."""
    from cellmove.hosts import disk_transfer

    done: list[PassResult] = []
    while (verdict := disk_transfer.another_pass(done)).again:
        title = f"{what} {len(done) + 1}"
        done.append(passes.again(context, lambda title=title: passes.run(context, files, title)))  # type: ignore[misc]
    return done, verdict.why


def refresh(context: Context) -> None:
    """One more pass, for a move that is held before the stop.

    :raises CallError: it broke off; the next one goes on from what is there
    """
    passes.run(context, passes.own(context, disks_of(context)), "pass while it is held")


def _copy_again(context: Context, _intent: Nothing) -> CopiedAgain:
    """A pass just before the guest is stopped.

    Much time may have gone by since prep-dest; and the program at the source, if it is a new one, learns what the
    target has while the guest still runs.
    """
    from cellmove.hosts.disks import find

    survey = disk_survey.survey_source(passes.source(context), endpoints.server_id(context), context.plan.image_ref)
    # A journal that was written anew does not know them: they are what they are.
    known = disks_of(context) or survey.disks
    if survey.hindrances or [disk.name for disk in survey.disks] != [disk.name for disk in known]:
        raise CallFailed(
            "its disks are not those that prep-dest saw: " + ("; ".join(survey.hindrances) or "some came or went"),
            kind="cannot-stream",
        )
    for disk in known:
        if disk.base and not disk.is_flattened and find(passes.target(context), disk.base) is None:
            raise CallFailed(f"{disk.base} has gone from {endpoints.target_host(context)}", kind="cannot-stream")
    bases, own = passes.bases(context, known), passes.own(context, known)
    # What lies there already is read while it takes nobody's time; a new connection's first pass does that by itself.
    _check(context, own)
    for base in bases:  # they change no more, so they are whole from here on; one at a time, as two disks may share one
        passes.until_right(context, lambda base=base: passes.compared(context, [base], "bases"))  # type: ignore[misc]
    done, _why = _passes(context, own, "pass before the stop,")
    _check(context, own)
    return CopiedAgain(passes.figures(done[-1]), known)


def _check(context: Context, files: Sequence[Transfer]) -> None:
    """Read back what was written; what differs is sent by the next pass."""
    wrong = passes.again(context, lambda: passes.read_back(context, files, "check"))
    if wrong:
        passes.tell_wrong(context, wrong)


BEFORE_THE_CLAIM = (
    Action(
        LOOK_AT_DISKS,
        "look at the disks on {source_host} and at the room on {target_host}",
        _look,
        applies=is_streamed,
        retry_from=SCHEDULE,
        requires=(SCHEDULE,),
    ),
)
"""For prep-dest, once a host is chosen. Before the claim: nova rolls that back by removing the server's directory there."""

WHILE_IT_RUNS = (
    Action(
        SEED_BASE,
        "see that {target_host} has the image that the disk stands on",
        _seed_bases,
        undo=_unseed,
        applies=is_streamed,
        retry_from=SCHEDULE,
        requires=(SCHEDULE,),
    ),
    Action(
        MAKE_DIRECTORY,
        "make the server's directory on {target_host}",
        _make_directory,
        undo=_clear,
        applies=is_streamed,
        requires=(SCHEDULE,),
    ),
    Action(
        COPY_RUNNING,
        "copy the disks to {target_host} while the guest runs",
        _copy_running,
        applies=is_streamed,
        retry_from=SCHEDULE,
        requires=(SCHEDULE,),
    ),
)
"""For the end of prep-dest."""

BEFORE_THE_STOP = (
    Action(
        COPY_AGAIN,
        "copy what has changed since, while the guest still runs",
        _copy_again,
        applies=is_streamed,
        requires=(SCHEDULE,),
    ),
)
"""For the beginning of prep-source."""
