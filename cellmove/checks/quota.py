"""The project's quota, which a resize may not exceed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from cellmove.checks.result import CheckResults, refusal
from cellmove.checks.snapshot import ServerSnapshot
from cellmove.cloud.quota import Quota, upsize

UNITS = {"cores": "vCPUs", "ram": "MiB of memory"}


def exceeded(quotas: Iterable[Quota], deltas: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Each quota that does not leave room for more: what is wrong, and what to do.

    A user's is not told beside the project's for the same thing: nova shows the project's limit where the user has none.
    """
    told: set[str] = set()
    for quota in quotas:
        more = deltas.get(quota.what, 0)
        if more and quota.exceeded_by(more) and quota.what not in told:
            told.add(quota.what)
            unit = UNITS[quota.what]
            yield (
                f"the {quota.whose}'s quota has no room for {more} more {unit}: {quota.in_use} of {quota.limit} are in use",
                f"openstack quota set --{quota.what} {quota.in_use + more} PROJECT"
                if quota.whose == "project"
                else f"raise the user's own limit to {quota.in_use + more} {unit}",
            )


def check_quota(snapshot: ServerSnapshot) -> CheckResults:
    """An up-size, as nova-api checks it. A migration changes nothing, and is not checked there either."""
    old, new = snapshot.flavor, snapshot.new_flavor
    if new is not None:
        deltas = upsize((old.vcpus, old.memory_mb), (new.vcpus, new.memory_mb))
        for text, remedy in exceeded(snapshot.quotas, deltas):
            yield refusal(
                "quota", text, f"{remedy.replace('PROJECT', snapshot.instance.project_id)}, or choose a smaller flavor"
            )
