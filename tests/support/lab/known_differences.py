"""Every difference between what nova leaves of a moved server and what cellmove does, each with its reason.

Held against both: a difference that is not here fails the test, and so does one that no case shows any more.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """A difference.

    :param path: a pattern (fnmatch; ``[`` is literal) for its paths, see ``pair.leaves``
    :param what: what nova does and what we do, for docs/fidelity.md
    :param why: the reason
    :param always: whether some case has to show it; what depends on the moment need not
    """

    path: str
    what: str
    why: str
    always: bool = True

    def fits(self, path: str) -> bool:
        """Whether it is about this path."""
        return fnmatch.fnmatchcase(path, self.path.replace("[", "[[]"))


KNOWN = (
    Known(
        "cell2.instance_faults[it failed once]*",
        "nova forgets the server's past faults; they travel",
        "kept, native loses it: faults are not among what TargetDBSetupTask copies",
    ),
    Known(
        "cell2.virtual_interfaces[*].address",
        "nova writes the MAC address alone; it stays `MAC/port` as it was",
        "kept, native loses it: the copy is made from objects, whose address field drops the port",
    ),
    Known(
        "cell2.instance_actions_events[* cold_migrate].*",
        "nova leaves the copied event open for ever; it is ended in both cells",
        "native ends `cold_migrate` in the source cell only, so its copy looks unfinished to the owner",
    ),
    Known(
        "cell2.instance_actions_events[* conductor_migrate_server].*",
        "nova leaves the copied event open for ever; it is ended in both cells",
        "as with `cold_migrate`",
    ),
    Known(
        "cell?.instance_actions_events[* compute_prep_snapshot_based_resize_at_dest].*",
        "a revert by nova forgets what happened at the target; its events come back with the server",
        "kept, native loses it: RevertResizeTask copies the revert's own action alone",
    ),
    Known(
        "cell?.migrations[*].dest_compute_id",
        "after a revert nova's record counts a compute node of the other cell; it is empty",
        "numbers of compute nodes mean nothing in another cell's database",
    ),
    Known(
        "request_spec.requested_resources",
        "after a revert nova's stored spec has no word on requested resources; that there were none",
        "both mean none",
    ),
    Known(
        "cell?.instance_extra[*].migration_context.old_pci_devices.objects",
        "nova notes that PCI devices were not looked up; that there are none",
        "both mean none; the host that claims looks them up when it is not told",
    ),
    Known(
        "cell?.instance_info_caches[*].updated_at",
        "whether a port's event came before or after the rows were read",
        "neutron tells nova of ports when it likes, in both kinds of move",
        always=False,
    ),
)
