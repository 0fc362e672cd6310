"""What was decided when a move was planned: plain data, kept in the journal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cellmove.core.documents import IF_SET, Answer, Document, NovaObject, structure, to_document
from cellmove.core.request import MoveRequest

if TYPE_CHECKING:
    from cellmove.core.move import Move


@dataclass(frozen=True)
class Selection:
    """A host that the scheduler chose.

    :param limits: the SchedulerLimits primitive for the claim
    """

    host: str
    node: str
    cell_uuid: str
    compute_node_uuid: str
    limits: NovaObject | None
    allocation_request: Answer
    allocation_request_version: str


@dataclass(frozen=True)
class ChosenHost:
    """The host that the server goes to.

    :param target_cell: its display name
    :param limits: the SchedulerLimits primitive for the claim
    :param alternates: hosts that the scheduler offered besides, the best one first
    :param new_flavor: the flavor that the server will have; None where a rebuilt journal does not know it
    :param migration_uuid: only in a journal that an earlier version rebuilt of a finished move
    """

    target_cell: str
    target_cell_uuid: str
    target_host: str
    target_node: str
    limits: NovaObject | None = None
    alternates: tuple[Selection, ...] = ()
    new_flavor: NovaObject | None = None
    migration_uuid: str = field(default="", metadata=IF_SET)


@dataclass(frozen=True)
class PlannedVolume:
    """A volume that the server had when its move was planned."""

    bdm_uuid: str
    volume_id: str


@dataclass(frozen=True, kw_only=True)
class MovePlan:
    """What a move's plan holds. It never changes but for ``request`` and ``command``; nothing secret stands in it.

    :param kind: nova's migration_type: "resize" or "migration"
    :param source_cell: its display name
    :param wanted_cell: the display name of the cell that the operator named, if any
    :param wanted_host: the host that the operator named, if any
    :param target_cell_uuids: the cells that are allowed, in order; empty in a journal of an earlier version
    :param target_cells: their display names
    :param active: whether the guest ran
    :param transfer: how local disks travel, as far as the plan knows (:data:`cellmove.core.transfer.TRANSFERS`)
    :param transfer_wish: how they were asked to travel
    :param only_streamed: names of what is lost unless the disks are streamed
    :param bwlimit: bytes a second that are sent at most while the guest runs; None in a journal of an earlier version
    :param volume_zones: the availability zones that the server's volumes keep it to
    :param architecture: of the guest, and whether its image names it
    :param forced: the stored request spec keeps the server to the host that it was built on
    :param request: what the move was asked for with; None in a journal of an earlier version
    :param command: the same as a command line
    :param request_id: under which nova's history shows the move
    :param max_hosts: how many hosts are tried; 0: the scheduler's first and one other. None: not known
    :param adopted: the journal was rebuilt from the cloud
    :param begun_by: "nova" for a move that nova's conductor began
    :param arrival: of a rebuilt journal: the host that was chosen before it was lost
    """

    server_id: str
    server_name: str
    project_id: str
    user_id: str
    kind: str
    source_cell: str
    source_cell_uuid: str
    source_host: str
    source_node: str
    source_compute_version: int = 0
    wanted_cell: str = ""
    wanted_cell_uuid: str = ""
    wanted_host: str
    target_cell_uuids: tuple[str, ...] = ()
    target_cells: tuple[str, ...]
    flavor_name: str
    new_flavor_id: str
    old_instance_type_id: int
    new_instance_type_id: int
    volume_backed: bool
    vm_state: str
    active: bool
    transfer: str = ""
    transfer_wish: str = ""
    only_streamed: tuple[str, ...] = ()
    bwlimit: int | None = field(default=None, metadata=IF_SET)
    volume_zones: tuple[str, ...] = ()
    architecture: tuple[str, bool] = ("", False)
    ports: tuple[str, ...] = ()
    volumes: tuple[PlannedVolume, ...] = ()
    flavor_from: str = ""
    image_ref: str
    accepted_losses: tuple[str, ...] = ()
    forced: bool = False
    request: MoveRequest | None = field(default=None, metadata=IF_SET)
    command: str = ""
    request_id: str = field(default="", metadata=IF_SET)
    max_hosts: int | None = field(default=None, metadata=IF_SET)
    adopted: bool = field(default=False, metadata=IF_SET)
    begun_by: str = field(default="", metadata=IF_SET)
    arrival: ChosenHost | None = field(default=None, metadata=IF_SET)

    @property
    def is_resize(self) -> bool:
        """Whether the server gets another flavor."""
        return self.kind == "resize"

    @property
    def allowed_cells(self) -> tuple[str, ...]:
        """The cells that are allowed, in order: UUIDs, or the names that a journal of an earlier version holds."""
        return self.target_cell_uuids or self.target_cells

    @property
    def wanted(self) -> str:
        """The cell that the operator named: its UUID, or its name in a journal of an earlier version; empty: none."""
        return self.wanted_cell_uuid or self.wanted_cell


@dataclass(frozen=True)
class PlanOutline:
    """What lists and reports of many moves tell of a plan; each part has a default, and repairs and drains have none."""

    active: bool = False
    volume_backed: bool = False
    transfer: str = ""
    accepted_losses: tuple[str, ...] = ()
    adopted: bool = False


ARRIVAL = ("target_cell", "target_cell_uuid", "target_host", "target_node", "limits", "alternates", "new_flavor")
"""The stored keys of :attr:`MovePlan.arrival`, which stand beside the others."""


def plan_of(move: Move) -> MovePlan:
    """A move's plan.

    :raises JournalUnreachable: the journal lacks a part of it
    """
    document = dict(move.plan)
    if document.get("target_host"):
        document["arrival"] = {name: document[name] for name in ARRIVAL if name in document}
    return structure(MovePlan, document, f"the plan of {move.id}")


def outline_of(move: Move) -> PlanOutline:
    """What a list tells of a move's plan, or of the record of a repair or a drain."""
    return structure(PlanOutline, move.plan, f"the plan of {move.id}")


def plan_document(plan: MovePlan) -> Document:
    """A plan as the journal stores it."""
    document = to_document(plan)
    arrival = document.pop("arrival", None)
    return document | (to_document(plan.arrival) if arrival is not None else {})
