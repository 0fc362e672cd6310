"""The disks travel over ssh while the guest runs: what prep-dest, prep-source and finish do for that.

nova-compute keeps a disk that it finds in place of the one it would make (nova/virt/libvirt/driver.py, ``spawn``), so
prep_snapshot_based_resize_at_source and finish_snapshot_based_resize_at_dest are called without a snapshot, and the
files are put where the target expects them. Everything here may be repeated: files carry this move's mark until they
are whole.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from cellmove import mark
from cellmove.action import Action, Context
from cellmove.db import state
from cellmove.errors import CallError, CallFailed, CallUncertain, CannotConnect, NotFound
from cellmove.steps import disk_survey, places
from cellmove.transfer import AUTO, IMAGE, STREAM

if TYPE_CHECKING:
    from cellmove.hosts.disk_link import Link
    from cellmove.hosts.disk_pass import Observer, PassResult, Progress, Transfer
    from cellmove.hosts.disks import Entry
    from cellmove.steps.disk_survey import Disk

NOTHING: Mapping[str, Any] = {}
MIB = 1 << 20
DANGER = "danger"
"""The kind of a failure for which a server must not go to that host, through an image neither."""

BROKEN = 3
"""How often a broken connection is made anew during one pass."""

T = TypeVar("T")


def is_streamed(context: Context) -> bool:
    """Whether this move's disks are streamed, as far as is known by now."""
    return context.facts.get("transfer") == STREAM


def is_imaged(context: Context) -> bool:
    """Whether they go through a temporary image."""
    return not context.facts["volume_backed"] and not is_streamed(context)


def marked(context: Context) -> Mapping[str, Any]:
    """What the server's mark says of it, so that a journal that is written anew knows."""
    if not is_streamed(context):
        return NOTHING
    return {name: context.facts.get(name) for name in ("transfer", "transfer_wish", "only_streamed", "bwlimit")}


# the two ends


def _source(context: Context) -> Link:
    return context.gateway.links.to(context.facts["source_host"], places.server_id(context), context.move.id)


def _target(context: Context) -> Link:
    return context.gateway.links.to(context.facts["target_host"], places.server_id(context), context.move.id)


def _transfers(context: Context, disks: Sequence[Disk]) -> list[Transfer]:
    from cellmove.hosts.disk_pass import Transfer

    return [Transfer(_path(context, disk.name), mode=disk.mode) for disk in disks]


def _path(context: Context, name: str) -> str:
    return f"{places.server_id(context)}/{name}"


def _watch(context: Context, what: str, *, may_end: bool = False) -> Observer:
    """Tell how far a pass is, as a line of text.

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


def _again(context: Context, do: Callable[[], T]) -> T:
    """Go on after a connection broke, a few times: the next one goes on from what is at the target."""
    for pause in itertools.islice(context.clock.waits(), BROKEN):
        try:
            return do()
        except CallUncertain as error:
            context.note(f"{error}; connecting again")
            context.clock.sleep(pause)
    return do()


# prep-dest: while the guest runs


def _look(context: Context, _intent: Mapping[str, Any]) -> Mapping[str, Any]:
    """Whether these two hosts can do it. What ``auto`` comes to is decided here, and stands in the journal."""
    found = _or_image(context, lambda: _looked(context), lambda: None)
    if found["transfer"] == STREAM:
        _mark(context, streamed=True)  # at an earlier host it may have come to an image
    return found


def _looked(context: Context) -> Mapping[str, Any]:
    server = places.server_id(context)
    survey = disk_survey.survey_source(_source(context), server, context.facts["image_ref"])
    if not survey.hindrances:
        survey = disk_survey.survey_target(_target(context), _source(context), server, survey)
    if survey.hindrances:
        raise CallFailed("; ".join(survey.hindrances), kind=DANGER if survey.dangers else "cannot-stream")
    return {"transfer": STREAM, "disks": disk_survey.as_facts(survey.disks)}


def _or_image(context: Context, do: Callable[[], Mapping[str, Any]], clear: Callable[[], None]) -> Mapping[str, Any]:
    """Go on through an image where that was left to us, and nothing is lost by it that was promised to travel.

    :param clear: removes what ``do`` may have left at the target
    """
    try:
        return do()
    except (CallFailed, CannotConnect) as error:
        if context.facts.get("transfer_wish") != AUTO or getattr(error, "kind", "") == DANGER:
            raise
        carried = context.facts.get("only_streamed") or ()
        if carried:
            raise CallFailed(
                f"{error}; and through an image its {', '.join(carried)} would be lost"
                f" (--transfer image --accept-loss {','.join(carried)})",
                kind="cannot-stream",
            ) from None
        try:
            clear()
        except CallError:
            raise error from None  # taking back insists on it
        _mark(context, streamed=False)
        context.note(f"the disks go through an image: {error}")
        return {"transfer": IMAGE, "transfer_why": str(error)}


def _mark(context: Context, *, streamed: bool) -> None:
    """Let the server's mark say what it came to, in every cell that has one."""
    server, told = places.server_id(context), mark.text_of(marked(context)) if streamed else None
    for database in (places.source(context), places.target(context)):
        there = state.read_system_metadata(database, server)
        if mark.move_id_of(there.get(mark.KEY)) == context.move.id and there.get(mark.TRANSFER) != told:
            with state.transaction(database.engine, database.name) as connection:
                state.set_system_metadata(connection, database, server, mark.TRANSFER, told, places.now(context))


def _seed_bases(context: Context, _intent: Mapping[str, Any]) -> Mapping[str, Any]:
    return _or_image(
        context, lambda: _again(context, lambda: _seeded(context)), lambda: _unseed(context, NOTHING, NOTHING)
    )


def _unseed(context: Context, _intent: Mapping[str, Any], _result: Mapping[str, Any]) -> None:
    """Remove what is unfinished. A base that was brought stays: other servers may stand on it by now, and nova's image
    cache removes it when none does.
    """
    from cellmove.hosts import disks

    unfinished = disks.marked(disk_survey.base_of_image(context.facts["image_ref"]), context.move.id)
    try:
        disks.remove(_target(context), unfinished)
    except NotFound:
        return  # there is no _base at all


def _seeded(context: Context) -> Mapping[str, Any]:
    """The image that the root disk stands on has to be the same at the target, byte for byte.

    nova would fetch it during finish, and only if glance still has it.
    """
    disks = disk_survey.from_facts(context.facts)
    seeded = [disk.base for disk in disks if disk.base and not disk.is_flattened and _seed(context, disk.base)]
    return {"seeded": seeded}


def _seed(context: Context, base: str) -> bool:
    """Bring a base over unless it is there.

    :returns: whether it was brought
    :raises CallFailed: another one is there
    """
    from cellmove.hosts import disk_pass, disks

    source, target = _source(context), _target(context)
    watch = _watch(context, "base image")
    transfer = disk_pass.Transfer(base)
    brought = False
    if not _entry(target, base):
        disks.mkdir(target, "_base")
        made = disk_pass.run_pass(
            source, target, [transfer], clock=context.clock, bwlimit=context.facts.get("bwlimit") or 0, cache="drop",
            observer=_watch(context, "base image", may_end=True),
        ).files[0]  # fmt: skip  # not still: nova's image cache touches what is in use (imagecache.py, _mark_in_use)
        unfinished = transfer.unfinished(target.move_id)
        if disk_pass.digest_of(target, unfinished, observer=watch) != made.digest:
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
        compared = disk_pass.compare(source, target, transfer, path=base, cache="drop", observer=watch)
        if not compared.same:
            raise CallFailed(
                f"{base} is another file on {target.host} than on {source.host} (from byte {compared.differs_at} on):"
                " the overlay cannot stand on it",
                kind="cannot-stream",
            )
    return brought


def _entry(link: Link, path: str) -> Entry | None:
    from cellmove.hosts.disks import look

    try:
        return look(link, path)[0]
    except NotFound:
        return None


def _make_directory(context: Context, _intent: Mapping[str, Any]) -> Mapping[str, Any]:
    from cellmove.hosts import disks

    disks.mkdir(_target(context), places.server_id(context))
    return NOTHING


def _clear(context: Context, _intent: Mapping[str, Any], _result: Mapping[str, Any]) -> None:
    """Remove what this move left at the target, and the directory if that was all.

    nova removes it as well when it gives up a guest there, so it may be gone. Files that got their names already are
    removed here and not sooner: by now the guest runs at the source again, whether or not the target answers.
    """
    from cellmove.hosts import disks

    target, server = _target(context), places.server_id(context)
    try:
        entries = disks.look(target, server)
    except NotFound:
        return
    placed = [entry for entry in entries if disk_survey.CARRIED.match(entry.name)]
    if placed and disks.share_storage(_source(context), target):
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


def _copy_running(context: Context, _intent: Mapping[str, Any]) -> Mapping[str, Any]:
    """Passes until what changes between two is little, or no longer gets less."""
    from cellmove.hosts import disk_pass

    disks = disk_survey.from_facts(context.facts)
    _again(context, lambda: _pass(context, _bases(context, disks), "bases"))
    done: list[PassResult] = []
    while (verdict := disk_pass.another_pass(done)).again:
        what = f"pass {len(done) + 1}"
        done.append(_again(context, lambda what=what: _pass(context, _transfers(context, disks), what)))  # type: ignore[misc]
    context.note(f"{len(done)} {'pass' if len(done) == 1 else 'passes'}: {verdict.why}")
    return {"passes": [_told(each) for each in done]}


def refresh(context: Context) -> None:
    """One more pass, for a move that is held before the stop.

    :raises CallError: it broke off; the next one goes on from what is there
    """
    _pass(context, _transfers(context, disk_survey.from_facts(context.facts)), "pass while it is held")


def _bases(context: Context, disks: Sequence[Disk]) -> list[Transfer]:
    """The bases that are taken into their overlays later: each has a copy of its own, beside the overlay."""
    from cellmove.hosts.disk_pass import Transfer

    return [Transfer(disk.base, to=_path(context, f"{disk.name}.base")) for disk in disks if disk.is_flattened]


def _pass(context: Context, transfers: Sequence[Transfer], what: str) -> PassResult:
    from cellmove.hosts import disk_pass

    return disk_pass.run_pass(
        _source(context), _target(context), transfers, clock=context.clock,
        bwlimit=context.facts.get("bwlimit") or 0, observer=_watch(context, what, may_end=True),
    )  # fmt: skip


def _told(result: PassResult) -> dict[str, Any]:
    return {"read": result.read, "sent": result.sent, "seconds": round(result.seconds, 2)}


# prep-source: the last difference, while the guest is off


def _copy_again(context: Context, _intent: Mapping[str, Any]) -> Mapping[str, Any]:
    """A pass just before the guest is stopped.

    Much time may have gone by since prep-dest; and the program at the source, if it is a new one, learns what the
    target has while the guest still runs.
    """
    survey = disk_survey.survey_source(_source(context), places.server_id(context), context.facts["image_ref"])
    # A journal that was written anew does not know them: they are what they are.
    known = disk_survey.from_facts(context.facts) or survey.disks
    if survey.hindrances or [disk.name for disk in survey.disks] != [disk.name for disk in known]:
        raise CallFailed(
            "its disks are not those that prep-dest saw: " + ("; ".join(survey.hindrances) or "some came or went"),
            kind="cannot-stream",
        )
    for disk in known:
        if disk.base and not disk.is_flattened and _entry(_target(context), disk.base) is None:
            raise CallFailed(f"{disk.base} has gone from {context.facts['target_host']}", kind="cannot-stream")
    _again(context, lambda: _pass(context, _bases(context, known), "bases"))
    result = _again(context, lambda: _pass(context, _transfers(context, known), "pass before the stop"))
    return {"last_running": _told(result), "disks": disk_survey.as_facts(known)}


def _copy_rest(context: Context, _intent: Mapping[str, Any]) -> Mapping[str, Any]:
    """Nothing writes any more: one pass past the host's cache, then what is on the target's disk is read and compared."""
    disks = disk_survey.from_facts(context.facts)
    began, stamps = context.clock.monotonic(), _stamps(_source(context), context, disks)
    result = _again(context, lambda: _last_pass(context, disks))
    wrong = _again(context, lambda: _damaged(context, result))
    if wrong:
        context.note(f"{', '.join(wrong)}: what lies at the target is not what was sent; it is sent again")
        context.gateway.links.close(places.server_id(context))  # forgets what the target is believed to have
        result = _last_pass(context, disks)
        wrong = _damaged(context, result)
    if wrong:
        raise CallFailed(
            f"{', '.join(wrong)} on {context.facts['target_host']} is not what was sent, twice: look at its storage",
            kind="damaged",
        )
    _require_untouched(_source(context), context, stamps)
    return {
        "last_pass": _told(result),
        "stopped": stamps,
        "digests": {file.path.rpartition("/")[2]: file.digest for file in result.files},
        "checked_seconds": round(context.clock.monotonic() - began, 2),
    }


def _stamps(link: Link, context: Context, disks: Sequence[Disk]) -> dict[str, dict[str, int] | None]:
    """By which it is seen, later, that nobody has written to the disks."""
    stamps: dict[str, dict[str, int] | None] = {}
    for disk in disks:
        entry = _entry(link, _path(context, disk.name))
        stamps[disk.name] = {"size": entry.file.size, "mtime_ns": entry.file.mtime_ns} if entry is not None else None
    return stamps


def _require_untouched(link: Link, context: Context, stamps: Mapping[str, Any]) -> None:
    """
    :raises CallFailed: a disk was written to, or is gone
    """
    now = _stamps(link, context, disk_survey.from_facts(context.facts))
    for name, before in stamps.items():
        if now[name] != before:
            what = "changed" if now[name] else "removed"
            raise CallFailed(f"{name} on {link.host} was {what} while its guest was off: who did that?", kind="changed")


def _last_pass(context: Context, disks: Sequence[Disk]) -> PassResult:
    from cellmove.hosts import disk_pass

    return disk_pass.run_pass(
        _source(context), _target(context), _transfers(context, disks), clock=context.clock, cache="direct", still=True,
        observer=_watch(context, "last pass"),
    )  # fmt: skip


def _damaged(context: Context, result: PassResult) -> list[str]:
    """The files whose content at the target, read from its disk, is not what the source has."""
    from cellmove.hosts import disk_pass
    from cellmove.hosts.disks import marked

    target, watch = _target(context), _watch(context, "check")
    return [
        file.path.rpartition("/")[2]
        for file in result.files
        if disk_pass.digest_of(target, marked(file.path, target.move_id), observer=watch) != file.digest
    ]


def _identities(context: Context) -> Mapping[str, Any]:
    """Which files will get their names: known before, so that it can be repeated.

    A move whose journal was lost may have placed some already: then those are replaced.
    """
    from cellmove.hosts import disks

    target, files, over = _target(context), {}, {}
    for disk in disk_survey.from_facts(context.facts):
        path = _path(context, disk.name)
        files[disk.name] = _identity(target, disks.marked(path, target.move_id))
        if context.facts.get("adopted") and _entry(target, path) is not None:
            over[disk.name] = _identity(target, path)
    return {"files": files, "over": over}


def _identity(link: Link, path: str) -> dict[str, int]:
    from cellmove.hosts import disks

    (entry,) = disks.look(link, path)
    return dataclasses.asdict(entry.file.identity)


def _place(context: Context, intent: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give the files their names, each standing on what the target has."""
    from cellmove.hosts import disks

    source, target = _source(context), _target(context)
    for disk in disk_survey.from_facts(context.facts):
        path = _path(context, disk.name)
        unfinished = disks.marked(path, target.move_id)
        if _entry(target, unfinished) is not None:
            if disk.is_flattened:
                _flatten(context, disk, unfinished)
            elif disk.base and target.destination.instances_path != source.destination.instances_path:
                disks.rebase(target, unfinished, disk.base, disk.base_format)
            disks.sync(target, unfinished, mode=disk.mode)
        over = intent.get("over", {}).get(disk.name)
        disks.rename(
            target, unfinished, disk.name, file=disks.Identity(**intent["files"][disk.name]),
            over=disks.Identity(**over) if over else None,
        )  # fmt: skip
        for base in _bases(context, [disk]):
            disks.remove(target, base.unfinished(target.move_id))
    return {"placed": _stamps(target, context, disk_survey.from_facts(context.facts))}


def _flatten(context: Context, disk: Disk, unfinished: str) -> None:
    """Take an ephemeral or swap disk's base into it: the target's own of that name has other content."""
    from cellmove.hosts import disks

    target = _target(context)
    (base,) = _bases(context, [disk])
    disks.rebase(target, unfinished, base.unfinished(target.move_id), disk.base_format)
    disks.flatten(target, unfinished)


# finish


def _check_placed(context: Context, _intent: Mapping[str, Any]) -> Mapping[str, Any]:
    """Nobody has touched the files since they were compared, at either end: hours may have gone by in single steps.

    A source that died meanwhile is no reason to stay there.
    """
    try:
        _require_untouched(_source(context), context, context.facts["stopped"])
    except CannotConnect as error:
        context.note(f"whether anybody has written to its disks at the source since cannot be seen: {error}")
    _require_untouched(_target(context), context, context.facts["placed"])
    return NOTHING


BEFORE_THE_CLAIM = (
    Action(
        "look_at_disks",
        "look at the disks on {source_host} and at the room on {target_host}",
        _look,
        applies=is_streamed,
        again_from="schedule",
    ),
)
"""For prep-dest, once a host is chosen. Before the claim: nova takes that back by removing the server's directory there."""

WHILE_IT_RUNS = (
    Action(
        "seed_base",
        "see that {target_host} has the image that the disk stands on",
        _seed_bases,
        undo=_unseed,
        applies=is_streamed,
        again_from="schedule",
    ),
    Action("make_directory", "make the server's directory on {target_host}", _make_directory, undo=_clear, applies=is_streamed),
    Action(
        "copy_running",
        "copy the disks to {target_host} while the guest runs",
        _copy_running,
        applies=is_streamed,
        again_from="schedule",
    ),
)  # fmt: skip
"""For the end of prep-dest."""

BEFORE_THE_STOP = (
    Action("copy_again", "copy what has changed since, while the guest still runs", _copy_again, applies=is_streamed),
)
"""For the beginning of prep-source."""

WHILE_IT_IS_OFF = (
    Action(
        "copy_rest",
        "copy the last changes and compare what lies on {target_host}",
        _copy_rest,
        applies=is_streamed,
        takes_all_back=True,
    ),
    Action(
        "place_disks",
        "give the disks their names on {target_host}",
        _place,
        intend=_identities,
        applies=is_streamed,
        takes_all_back=True,
    ),
)
"""For the end of prep-source. What they leave is removed with the directory (:func:`_clear`)."""

BEFORE_THE_START = (
    Action(
        "check_disks", "see that nobody has touched the disks since", _check_placed, applies=is_streamed,
        takes_all_back=True,
    ),
)  # fmt: skip
"""For the beginning of finish."""

ACTIONS = (*BEFORE_THE_CLAIM, *WHILE_IT_RUNS, *BEFORE_THE_STOP, *WHILE_IT_IS_OFF, *BEFORE_THE_START)
"""All of them."""
