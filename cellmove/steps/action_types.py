"""What the journal keeps of every action: its name, and the types of its intent and its result.

A field's name is the key under which it is stored (:mod:`cellmove.core.documents`). Nothing here is renamed once it is
released. Actions that a repair or a drain makes as it needs them declare their types where they are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cellmove.core.documents import IF_SET, Nothing
from cellmove.core.move_plan import ChosenHost, Selection
from cellmove.engine.record import ActionType
from cellmove.hosts.disk_survey import Disk

Carried = Mapping[str, object]
"""Columns of the server's row that its owner may change, by name."""


@dataclass(frozen=True)
class MarkedTransfer:
    """What the server's mark says of disks that are streamed; see :class:`cellmove.core.move_plan.MovePlan`."""

    transfer: str = ""
    transfer_wish: str = ""
    only_streamed: tuple[str, ...] = ()
    bwlimit: int | None = None


# prep-dest


@dataclass(frozen=True)
class ServerBefore:
    """The columns that taking the server changes, as they were."""

    progress: int | None
    auto_disk_config: int | None
    image_base_image_ref: str | None
    begun_by: str = field(default="", metadata=IF_SET)  # "nova" for a move that nova's conductor began


@dataclass(frozen=True)
class MigrationId:
    """The migration record's UUID."""

    migration_uuid: str


@dataclass(frozen=True)
class OfferedHosts:
    """The hosts that are left of an earlier choice; None: the scheduler is asked."""

    offered: tuple[Selection, ...] | None = field(default=None, metadata=IF_SET)


@dataclass(frozen=True)
class TransferChoice:
    """How the disks travel, as far as the action has decided it.

    :param transfer: empty where it stays as it was
    :param transfer_why: they go through an image for this reason
    """

    transfer: str = field(default="", metadata=IF_SET)
    transfer_why: str = field(default="", metadata=IF_SET)


@dataclass(frozen=True)
class SurveyedDisks(TransferChoice):
    """The disks that are streamed; None where they are not."""

    disks: tuple[Disk, ...] | None = field(default=None, metadata=IF_SET)


@dataclass(frozen=True)
class SeededBases(TransferChoice):
    """The bases that were brought to the target; None where the disks are not streamed."""

    seeded: tuple[str, ...] | None = field(default=None, metadata=IF_SET)


@dataclass(frozen=True)
class CopyRequest:
    """Whether a copy that nova began is deleted and made anew."""

    anew: bool = field(default=False, metadata=IF_SET)


@dataclass(frozen=True)
class CopiedRecords:
    """How many rows of each table were copied."""

    copied: Mapping[str, int]


@dataclass(frozen=True)
class PortBefore:
    """A port as it was bound at the source."""

    id: str
    vnic_type: str
    profile: Mapping[str, object]


@dataclass(frozen=True)
class PortsBefore:
    """The server's ports."""

    ports: tuple[PortBefore, ...]


@dataclass(frozen=True)
class KnownAttachments:
    """The attachments that were there before, by id."""

    known: tuple[str, ...]


@dataclass(frozen=True)
class PassFigures:
    """What one pass over the disks came to, in bytes."""

    read: int
    sent: int
    seconds: float


@dataclass(frozen=True)
class CopiedDisks:
    """The passes while the guest ran."""

    passes: tuple[PassFigures, ...]


TAKE_SERVER = ActionType("take_server", ServerBefore, Nothing)
RECORD_MIGRATION = ActionType("record_migration", MigrationId, MigrationId)
MOVE_ALLOCATIONS = ActionType("move_allocations", Nothing, Nothing)
SCHEDULE = ActionType("schedule", OfferedHosts, ChosenHost)
LOOK_AT_DISKS = ActionType("look_at_disks", Nothing, SurveyedDisks)
COPY_RECORDS = ActionType("copy_records", CopyRequest, CopiedRecords)
BIND_PORTS = ActionType("bind_ports", PortsBefore, Nothing)
RESERVE_VOLUMES = ActionType("reserve_volumes", KnownAttachments, Nothing)
CLAIM = ActionType("claim", Nothing, Nothing)
NOTE_TARGET = ActionType("note_target", Nothing, Nothing)
MIRROR = ActionType("mirror", Nothing, Nothing)
SEED_BASE = ActionType("seed_base", Nothing, SeededBases)
MAKE_DIRECTORY = ActionType("make_directory", Nothing, Nothing)
COPY_RUNNING = ActionType("copy_running", Nothing, CopiedDisks)


# prep-source


@dataclass(frozen=True)
class CopiedAgain:
    """The last pass before the stop, and the disks as they were then."""

    last_running: PassFigures
    disks: tuple[Disk, ...]


@dataclass(frozen=True)
class ImageId:
    """The temporary image."""

    image_id: str


@dataclass(frozen=True)
class SourceAttachments:
    """The server's attachments at the source, by the id of the block device mapping."""

    attachments: Mapping[str, str | None]


@dataclass(frozen=True)
class Stamp:
    """By which it shows whether a file was written to."""

    size: int
    mtime_ns: int


Stamps = Mapping[str, Stamp | None]
"""By the disk's name; None for one that is not there."""


@dataclass(frozen=True)
class FinalPass:
    """A pass that was compared, and the digest of each file."""

    last_pass: PassFigures
    digests: Mapping[str, str]


@dataclass(frozen=True)
class EarlyPass(FinalPass):
    """A pass while nova was still stopping the guest. It counts while the source's disks have these stamps."""

    stamps: Stamps


@dataclass(frozen=True)
class StoppedSource:
    """What was made while the guest was being stopped, if anything was."""

    early: EarlyPass | None = field(default=None, metadata=IF_SET)


@dataclass(frozen=True)
class CopiedRest(FinalPass):
    """The last pass.

    :param stopped: the stamps of the source's disks
    :param compared: the stamps of the copies when they were compared; None in a journal of an earlier version
    """

    stopped: Stamps
    compared: Stamps | None = None
    checked_seconds: float = 0.0


@dataclass(frozen=True)
class FileIdentity:
    """Which file it is, whatever its name."""

    device: int
    inode: int


@dataclass(frozen=True)
class UnfinishedFiles:
    """The files that get their names, and those that they replace, by the disk's name."""

    files: Mapping[str, FileIdentity]
    over: Mapping[str, FileIdentity] = field(default_factory=dict)


@dataclass(frozen=True)
class PlacedDisks:
    """The stamps of the target's disks."""

    placed: Stamps


COPY_AGAIN = ActionType("copy_again", Nothing, CopiedAgain)
CREATE_IMAGE = ActionType("create_image", ImageId, ImageId)
STASH = ActionType("stash", Nothing, Nothing)
STOP_SOURCE = ActionType("stop_source", SourceAttachments, StoppedSource)
COPY_REST = ActionType("copy_rest", Nothing, CopiedRest)
PLACE_DISKS = ActionType("place_disks", UnfinishedFiles, PlacedDisks)


# finish


@dataclass(frozen=True)
class CarriedOver:
    """What was carried over from the row that the owner could change until then."""

    carried: Carried


@dataclass(frozen=True)
class StartedTarget:
    """The service version of nova-compute at the target, which says how it starts a guest."""

    target_compute_version: int


CHECK_DISKS = ActionType("check_disks", Nothing, Nothing)
HAND_OVER = ActionType("hand_over", Nothing, CarriedOver)
START_TARGET = ActionType("start_target", Nothing, StartedTarget)
SHOW_TARGET = ActionType("show_target", Nothing, Nothing)
SWITCH_MAPPING = ActionType("switch_mapping", Nothing, Nothing)
HIDE_SOURCE = ActionType("hide_source", Nothing, Nothing)
SAVE_REQUEST_SPEC = ActionType("save_request_spec", Nothing, Nothing)
CLOSE = ActionType("close", Nothing, Nothing)


# confirm


@dataclass(frozen=True)
class ConfirmRequest:
    """Under which nova's history shows the confirm."""

    confirm_request_id: str


BEGIN_CONFIRM = ActionType("begin_confirm", ConfirmRequest, ConfirmRequest)
CLEAN_SOURCE = ActionType("clean_source", Nothing, Nothing)
CHECK_ALLOCATIONS = ActionType("check_allocations", Nothing, Nothing)
DELETE_SOURCE = ActionType("delete_source", Nothing, Nothing)
SETTLE_TARGET = ActionType("settle_target", Nothing, Nothing)


# revert


@dataclass(frozen=True)
class RevertRequest:
    """Under which nova's history shows the revert."""

    revert_request_id: str


@dataclass(frozen=True)
class RevertBefore(RevertRequest):
    """The same, and the zone that the target's row names."""

    availability_zone: str | None


BEGIN_REVERT = ActionType("begin_revert", RevertBefore, RevertRequest)
PREPARE_SOURCE = ActionType("prepare_source", Nothing, CarriedOver)
MATCH_VOLUMES = ActionType("match_volumes", KnownAttachments, Nothing)
SHOW_SOURCE = ActionType("show_source", Nothing, Nothing)
SWITCH_BACK = ActionType("switch_back", Nothing, Nothing)
HIDE_TARGET = ActionType("hide_target", Nothing, Nothing)
CLEAN_TARGET = ActionType("clean_target", Nothing, Nothing)
DELETE_TARGET = ActionType("delete_target", Nothing, Nothing)
START_SOURCE = ActionType("start_source", Nothing, Nothing)
RESTORE_REQUEST_SPEC = ActionType("restore_request_spec", Nothing, Nothing)
CLOSE_REVERT = ActionType("close_revert", Nothing, Nothing)


# what is left of a deleted server

CLEAR_SOURCE = ActionType("clear_source", Nothing, Nothing)
CLEAR_TARGET = ActionType("clear_target", Nothing, Nothing)
CLEAR_REST = ActionType("clear_rest", Nothing, Nothing)
