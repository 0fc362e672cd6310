"""A server that goes through many cases, there and back between its cells, and what has to hold between them."""

from __future__ import annotations

from dataclasses import dataclass

from lab import cloud, oracle

HOSTS = {"cell1": "c1-host1", "cell2": "c2-host1"}
OTHER_CELL = {"cell1": "cell2", "cell2": "cell1"}


@dataclass
class Traveller:
    """A server that is used again from case to case, and where it is."""

    id: str
    volume_backed: bool
    cell: str = "cell1"
    flavor: str = "m1.tiny"
    at_rest: bool = False

    @property
    def away(self) -> str:
        """The cell that it is moved to next."""
        return OTHER_CELL[self.cell]

    def move_command(self) -> tuple[str, ...]:
        """The command that moves it to the other cell; an image-backed server is resized as well."""
        flavor = () if self.volume_backed else (self.other_flavor,)
        return ("migrate" if self.volume_backed else "resize", self.id, *flavor, "--host", HOSTS[self.away])

    @property
    def other_flavor(self) -> str:
        """The flavor that it has after the next move."""
        if self.volume_backed:
            return self.flavor
        return "m1.small" if self.flavor == "m1.tiny" else "m1.tiny"

    def arrive(self) -> None:
        """Its home is the other cell from now on."""
        self.flavor = self.other_flavor
        self.cell = self.away


def settle(server_id):
    """Wait until the network has seen what became of the guest."""
    cloud.wait_ports(server_id, "ACTIVE" if "running" in cloud.guests(server_id).values() else "DOWN")


def check_home(traveller, before, disk):
    """It is in its cell as if nothing had been tried."""
    after = oracle.snapshot(traveller.id)
    host = HOSTS[traveller.cell]
    assert oracle.problems(after, cell=traveller.cell, host=host, flavor=traveller.flavor, status="ACTIVE") == []
    assert oracle.compare(before, after) == []
    assert cloud.guests(traveller.id) == {host: "running"}
    assert cloud.disk_hash(traveller.id) == disk


def check_arrived(traveller, before, disk, *, confirmed):
    """It is in the other cell, with nothing lost on the way."""
    after, host = oracle.snapshot(traveller.id), HOSTS[traveller.away]
    status = "ACTIVE" if confirmed else "VERIFY_RESIZE"
    found = oracle.problems(after, cell=traveller.away, host=host, flavor=traveller.other_flavor, status=status)
    assert found == []
    resized = not traveller.volume_backed
    assert not confirmed or oracle.compare(before, after, moved=True, resized=resized) == []
    assert cloud.guests(traveller.id) == {host: "running"}
    assert set(cloud.disk_hash(traveller.id).values()) == set(disk.values())
