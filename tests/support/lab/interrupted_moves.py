"""Servers whose move, confirm or revert by nova itself was left half done by a superconductor that died there."""

from __future__ import annotations

import contextlib
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from lab import cloud, oracle, rows, wreck
from lab.layout import HOSTS, cell_of

TARGETS = ("c2-host1", "c2-host2")
"""Where an image-backed server, which is resized, may come to; nova chooses. A volume-backed one goes to the first."""
SOURCE_ROW = "SELECT id FROM nova_cell1.instances WHERE uuid = %s AND deleted = 0"
TARGET_ROW = "SELECT id FROM nova_cell2.instances WHERE uuid = %s AND deleted = 0"
MAPPING = "SELECT id FROM nova_api.instance_mappings WHERE instance_uuid = %s"
RECORD = "SELECT id FROM nova_{}.migrations WHERE instance_uuid = %s"
SOURCE_IS = f"{SOURCE_ROW} AND task_state = '{{}}'"
CONFIRMING = RECORD.format("cell2") + " AND status = 'confirming'"
# The API's last write. A row held before it would be waited for by the API itself: an action refers to its server's row.
ASKED = "SELECT id FROM nova_cell2.instance_actions WHERE instance_uuid = %s AND action = '{}Resize'"


EVENTS = {
    "power_off": "compute_prep_snapshot_based_resize_at_source",
    "spawn": "compute_finish_snapshot_based_resize_at_dest",
    "cleanup": "compute_confirm_snapshot_based_resize_at_source",
    "destroy": "compute_revert_snapshot_based_resize_at_dest",
    "finish_revert_migration": "compute_finish_revert_snapshot_based_resize_at_source",
}
"""What the compute is at while a virt call hangs."""


@dataclass(frozen=True)
class Place:
    """Where the superconductor dies.

    :param held: rows that it is about to write
    :param once: a condition; only when it is seen are they held
    :param virt_call: a call of a compute that it waits for: its cell, and the call
    :param after: what is done to a server that nova has moved already: "confirm" or "revert"
    """

    held: str = ""
    once: str = ""
    virt_call: tuple[str, ...] = ()
    after: str = ""


PLACES = {
    # the move
    "cell-not-decided": Place(RECORD.format("cell1"), once=RECORD.format("cell1")),
    "half-copied": Place(TARGET_ROW, once=TARGET_ROW),  # whose rows of other tables want it to be there
    "attachment-made": Place(
        "SELECT id FROM nova_cell2.block_device_mapping WHERE instance_uuid = %s", once=RECORD.format("cell2")
    ),
    "claimed": Place(RECORD.format("cell1"), once=RECORD.format("cell2")),
    "before-stop": Place(SOURCE_ROW, once=RECORD.format("cell2") + " AND dest_compute IS NOT NULL"),
    "stopping": Place(virt_call=("cell1", "power_off")),
    "stopped": Place(TARGET_ROW, once=SOURCE_IS.format("resize_migrating")),
    "starting": Place(virt_call=("cell2", "spawn")),
    "target-shown": Place(MAPPING),
    "mapping-switched": Place(SOURCE_ROW, once=SOURCE_IS.format("resize_migrated")),
    "spec-not-saved": Place("SELECT id FROM nova_api.request_specs WHERE instance_uuid = %s"),
    # the confirm
    "confirm-not-sent": Place(SOURCE_ROW, after="confirm"),  # it gets a new action
    "confirming": Place(virt_call=("cell1", "cleanup"), after="confirm"),
    "confirm-source-gone": Place(RECORD.format("cell2"), once=CONFIRMING, after="confirm"),
    "confirm-half-settled": Place(TARGET_ROW, once=ASKED.format("confirm"), after="confirm"),
    # the revert
    "revert-begun": Place(SOURCE_ROW, after="revert"),
    "revert-source-told": Place(MAPPING, after="revert"),
    "revert-switched": Place(TARGET_ROW, once=ASKED.format("revert"), after="revert"),
    "revert-cleaning": Place(virt_call=("cell2", "destroy"), after="revert"),
    "revert-starting": Place(virt_call=("cell1", "finish_revert_migration"), after="revert"),
}


@dataclass
class Wreck:
    """One server, as it is left."""

    name: str
    place: Place
    volume_backed: bool
    server: str = ""
    before: dict[str, Any] = field(default_factory=dict)
    disk: dict[str, str] = field(default_factory=dict)
    holds: list[wreck.Hold] = field(default_factory=list)

    @property
    def flavor(self) -> str:
        """The flavor that it is moved to."""
        return "m1.tiny" if self.volume_backed else "m1.small.cell2"

    def boot(self) -> None:
        name = f"wreck-{self.name}-{uuid.uuid4().hex[:6]}"
        self.server = cloud.boot(name, volume_backed=self.volume_backed, volumes=1)
        self.before, self.disk = oracle.snapshot(self.server), cloud.disk_hash(self.server)
        if self.place.after:
            self.move(wait=True)

    def move(self, *, wait: bool) -> None:
        how = {"host": TARGETS[0]} if self.volume_backed else {"flavor": self.flavor}
        cloud.native_move(self.server, wait=wait, **how)

    def begin(self) -> None:
        """Ask nova; its conductor comes to stand where it will die."""
        place = self.place
        if place.virt_call:
            for host in self.hosts():
                cloud.set_fault(host, place.virt_call[1], "hang", self.server)
        elif place.once:
            wreck.hold_when(place.once, place.held, self.server, self.holds)
        else:
            self.holds.append(wreck.Hold(place.held, self.server))
        if place.after:
            cloud.act(self.server, f"{place.after}Resize")
        else:
            self.move(wait=False)

    def wait(self) -> None:
        """Until the conductor stands there."""
        if self.place.virt_call:
            cell, event = self.place.virt_call[0], EVENTS[self.place.virt_call[1]]
            wreck.wait_for(f"{self.name}: {event}", lambda: event in rows.open_events(self.server, cell), 60)
        else:
            wreck.wait_for(f"{self.name} to stand", lambda: self.holds and self.holds[0].is_met(), 60)

    def release(self) -> None:
        """The conductor is dead: what a compute was at goes on."""
        for hold in self.holds:
            hold.release()
        for host in self.hosts():
            cloud.clear_fault(host, self.place.virt_call[1], self.server)

    def hosts(self) -> list[str]:
        """Those that may have to make the virt call."""
        return [host for host in HOSTS if self.place.virt_call and cell_of(host) == self.place.virt_call[0]]


def make(wrecks: list[Wreck], *, start: bool = True) -> None:
    """Boot the servers, let nova begin with all of them, and kill its superconductor; `start` it again."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(Wreck.boot, wrecks))
        try:
            list(pool.map(Wreck.begin, wrecks))
            list(pool.map(Wreck.wait, wrecks))
        finally:
            wreck.stop_superconductor()
            wreck.kill_superconductor()
            for each in wrecks:
                each.release()
            if start:
                wreck.start_superconductor()


def unmake(wrecks: list[Wreck]) -> None:
    """Delete the servers, whatever became of them."""

    def delete(each: Wreck) -> None:
        with contextlib.suppress(cloud.Unexpected):
            cloud.delete(each.server)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(delete, [each for each in wrecks if each.server]))
