"""Check the quotas of a resize."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from cellmove.checks.result import CheckResults, refusal
from cellmove.checks.snapshot import ServerSnapshot
from cellmove.cloud.quota import Quota, upsize

UNITS = {"cores": "vCPUs", "ram": "MiB of memory"}


def exceeded(quotas: Iterable[Quota], deltas: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Yield the text and the remedy of each quota that is too small.

    A user's quota is left out beside the project's quota of the same resource: nova shows the project's limit where the
    user has none.

    :param deltas: the additional usage by resource
    """
    seen: set[str] = set()
    for quota in quotas:
        more = deltas.get(quota.what, 0)
        if more and quota.exceeded_by(more) and quota.what not in seen:
            seen.add(quota.what)
            unit = UNITS[quota.what]
            yield (
                f"the {quota.whose}'s quota does not allow {more} more {unit}: {quota.in_use} of {quota.limit} are in use",
                f"openstack quota set --{quota.what} {quota.in_use + more} PROJECT"
                if quota.whose == "project"
                else f"raise the user's own limit to {quota.in_use + more} {unit}",
            )


def check_quota(snapshot: ServerSnapshot) -> CheckResults:
    """Check a resize to a larger flavor, as nova-api does. A migration changes no usage and is not checked."""
    old, new = snapshot.flavor, snapshot.new_flavor
    if new is not None:
        deltas = upsize((old.vcpus, old.memory_mb), (new.vcpus, new.memory_mb))
        for text, remedy in exceeded(snapshot.quotas, deltas):
            yield refusal(
                "quota", text, f"{remedy.replace('PROJECT', snapshot.instance.project_id)}, or choose a smaller flavor"
            )
