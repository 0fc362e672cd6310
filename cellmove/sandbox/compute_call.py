"""A call that a nova-compute of the sandbox has received, and what it reads and saves meanwhile."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

from cellmove.sandbox.store import Cloud, Record, Refusal, cell_of

Work = Generator[None, None, Any]


RUNNING, SHUT_DOWN = 1, 4


WALLABY = 56
"""The service version of the first nova-compute that starts a moved guest from the snapshot."""


@dataclass(frozen=True)
class Call:
    """One call that a host has taken.

    :param instance: fields of the Instance that was sent; ``migration`` likewise
    :param more: snapshot_id, flavor, nodename, limits
    """

    cloud: Cloud
    host: str
    method: str
    request_id: str
    instance: Record
    migration: Record
    more: Mapping[str, Any]

    @property
    def cell(self) -> str:
        """Whose database the host writes to."""
        return cell_of(self.host)

    @property
    def server(self) -> str:
        """The server's UUID."""
        return str(self.instance["uuid"])

    def row(self) -> Record:
        """The server's live row."""
        found = self.cloud.row(self.cell, "instances", uuid=self.server, deleted=0)
        if found is None:
            raise Refusal("InstanceNotFound", f"Instance {self.server} could not be found.")
        return found

    def save(self, values: Mapping[str, Any], *expected: str | None) -> None:
        """Save the instance, if its task state is one of those expected (any when none is named)."""
        match: Record = {"uuid": self.server, "deleted": 0} | ({"task_state": expected} if expected else {})
        if not self.cloud.update(self.cell, "instances", values, **match):
            seen = self.row()["task_state"]
            raise Refusal("UnexpectedTaskStateError", f"Expected {list(expected)}. Actual: {{'task_state': {seen}}}")

    def set_migration(self, **values: Any) -> None:
        """Save the migration."""
        self.cloud.update(self.cell, "migrations", values, uuid=self.migration["uuid"])

    def set_extra(self, **values: Any) -> None:
        """Save parts of the instance that lie in instance_extra."""
        self.cloud.update(self.cell, "instance_extra", values, instance_uuid=self.server, deleted=0)

    def flavors(self) -> Record:
        """Current, old and new flavor."""
        extra = self.cloud.row(self.cell, "instance_extra", instance_uuid=self.server, deleted=0) or {}
        found: Record = json.loads(extra["flavor"])
        return found

    def set_flavors(self, **flavors: Any) -> None:
        """Change some of the three."""
        self.set_extra(flavor=json.dumps(self.flavors() | flavors))

    def metadata(self, key: str) -> str | None:
        """A value of the system metadata."""
        match = {"instance_uuid": self.server, "key": key, "deleted": 0}
        found = self.cloud.row(self.cell, "instance_system_metadata", **match)
        return None if found is None else str(found["value"])

    @property
    def version(self) -> int:
        """The service version of this nova-compute."""
        service = self.cloud.row(self.cell, "services", host=self.host, binary="nova-compute") or {}
        return int(service.get("version") or 0)

    @property
    def is_bare_metal(self) -> bool:
        """Whether nova's ironic driver runs here."""
        node = self.cloud.row(self.cell, "compute_nodes", host=self.host) or {}
        return node.get("hypervisor_type") == "ironic"

    def volumes(self) -> list[Record]:
        """The volumes' block device mappings."""
        rows = self.cloud.rows(self.cell, "block_device_mapping", instance_uuid=self.server, deleted=0)
        return [row for row in rows if row["destination_type"] == "volume"]

    def fail_if_asked(self, call: str) -> None:
        """Raise what a test has asked for."""
        if self.cloud.fault(self.host, call, self.server):
            raise Refusal("NovaException", f"the sandbox was told to let {call} fail on {self.host}")


CODES = {"InstancePowerOffFailure": 400, "ImageNotFound": 404, "InstanceNotFound": 404, "DiskNotFound": 404}
"""The HTTP status of nova's exceptions; 500 for all others (nova/exception.py)."""


def record_fault(call: Call, error: Refusal) -> None:
    """Write the server's fault down, as nova shows it."""
    values = {"instance_uuid": call.server, "message": str(error)[:255], "host": call.host, "details": ""}
    call.cloud.insert(call.cell, "instance_faults", values | {"code": CODES.get(str(error.kind), 500)})
