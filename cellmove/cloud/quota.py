"""A project's quota as nova counts it: ``GET /os-quota-sets/PROJECT/detail``, with admin rights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from cellmove.cloud.identity import read
from cellmove.cloud.types import Body

if TYPE_CHECKING:
    from openstack.connection import Connection


@dataclass(frozen=True)
class Quota:
    """What may be used of something and what is; a limit of -1 is none.

    :param whose: ``project``, or ``user`` where nova keeps a limit for each user as well
    :param what: ``cores``, or ``ram`` in MiB
    """

    whose: str
    what: str
    limit: int
    in_use: int

    def exceeded_by(self, more: int) -> bool:
        """Whether so much more does not fit (nova/quota.py, limit_check_project_and_user)."""
        return 0 <= self.limit < self.in_use + more


def upsize(old: tuple[int, int], new: tuple[int, int]) -> Mapping[str, int]:
    """What a resize adds: nova/compute/utils.py, upsize_quota_delta. Empty when nothing grows.

    :param old: vCPUs and memory in MiB
    """
    deltas = {"cores": new[0] - old[0], "ram": new[1] - old[1]}
    return {what: delta for what, delta in deltas.items() if delta > 0}


def quotas(connection: Connection, project_id: str, user_id: str) -> tuple[Quota, ...]:
    """The limits on cores and memory of a project, and of its user, and what is in use of each.

    nova counts both when it resizes (nova/compute/api.py, _check_quota_for_upsize).
    """
    found: list[Quota] = []
    for whose, params in (("project", {}), ("user", {"user_id": user_id})):
        path = f"/os-quota-sets/{project_id}/detail"
        found += read(connection, "compute", path, partial(_made, whose), params=params, microversion="2.36")
    return tuple(found)


def _made(whose: str, body: Body) -> list[Quota]:
    answer = body["quota_set"]
    return [Quota(whose, what, int(answer[what]["limit"]), int(answer[what]["in_use"])) for what in ("cores", "ram")]
