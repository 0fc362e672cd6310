"""Allocations in placement, handled as nova's report client does (nova/scheduler/client/report.py)."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellmove.cloud.failures import NOT_UNDERSTOOD, call_name, failure_of, parsed
from cellmove.cloud.identity import read, request
from cellmove.cloud.types import Body, Fields, Resource
from cellmove.core.clock import Clock
from cellmove.core.errors import CallFailed
from cellmove.core.retry import RetryPolicy, with_retry

if TYPE_CHECKING:
    from openstack.connection import Connection
    from requests import Response

MICROVERSION = "1.28"
"""CONSUMER_GENERATION_VERSION. Never 1.38 or later, which want a consumer type nova does not write."""

ATTEMPTS = 4


def allocations_of(connection: Connection, consumer: str) -> Resource:
    """Return the allocations of a consumer (an instance or a migration).

    :returns: ``allocations`` by resource provider; unless that is empty, also
        ``consumer_generation``, ``project_id`` and ``user_id``
    """
    return read(connection, "placement", f"/allocations/{consumer}", _allocations, microversion=MICROVERSION)


def _allocations(body: Body) -> Resource:
    found: Resource = dict(body)
    if found.get("allocations"):
        resources_of(found["allocations"])
        found["consumer_generation"], found["project_id"], found["user_id"]
    return found | {"allocations": dict(found["allocations"])}


def consumers_of(connection: Connection, provider: str) -> list[str]:
    """Return the consumers of a resource provider; none when there is no such provider."""
    path = f"/resource_providers/{provider}/allocations"
    response = request(connection, "placement", "GET", path, microversion=MICROVERSION, accept={404})
    return parsed(response, "placement", lambda body: list(body["allocations"])) if response.status_code == 200 else []


def move_allocations(
    connection: Connection, from_: str, to: str, *, sleep: Callable[[float], None] = time.sleep
) -> bool:
    """Move all allocations of one consumer to another, whose own allocations are replaced.

    The call is idempotent: if ``from_`` has no allocations and ``to`` has some, they were moved before (nova assumes the same).
    It is repeated after a concurrent update of a provider, not after a change of a consumer by another process.

    :returns: True when allocations were moved, False when they had been moved before
    :raises CallFailed: ``kind`` is ``empty`` when neither has allocations, ``conflict`` when another process changed one of the
        consumers, otherwise the HTTP status
    """

    def attempt() -> Response | None:
        source, target = allocations_of(connection, from_), allocations_of(connection, to)
        if not source["allocations"]:
            if target["allocations"]:
                return None
            raise CallFailed(f"neither {from_} nor {to} holds any allocation", kind="empty")
        owner = {"project_id": source["project_id"], "user_id": source["user_id"]}
        body = {
            from_: {"allocations": {}, "consumer_generation": source["consumer_generation"], **owner},
            to: {
                "allocations": source["allocations"],
                "consumer_generation": target.get("consumer_generation"),
                **owner,
            },
        }
        return _send(connection, "POST", "/allocations", body, MICROVERSION)

    return _retried(attempt, sleep) is not None


@dataclass(frozen=True)
class Claim:
    """The resources of a host for a consumer.

    :param allocation_request: of the scheduler's selection: ``{"allocations": …, "mappings": …}``
    :param version: the selection's ``allocation_request_version``
    """

    consumer: str
    allocation_request: Fields
    version: str
    project_id: str
    user_id: str


def claim(connection: Connection, wanted: Claim, *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Claim a host for a consumer without allocations (``claim_resources``).

    nova would add to the consumer's allocations ("doubled-up"), which a move never needs. So this function refuses a consumer
    with other allocations. Equal ones mean that the claim was made before.

    :raises CallFailed: ``kind`` is ``held`` when the consumer has other allocations, ``conflict`` when another process was
        first, otherwise the HTTP status (409: does not fit any more)
    """
    allocations = wanted.allocation_request["allocations"]

    def attempt() -> Response | None:
        held = allocations_of(connection, wanted.consumer)["allocations"]
        if held and resources_of(held) == resources_of(allocations):
            return None
        if held:
            raise CallFailed(f"{wanted.consumer} holds other allocations already", kind="held")
        body = {
            **copy.deepcopy(dict(wanted.allocation_request)),
            "project_id": wanted.project_id,
            "user_id": wanted.user_id,
            "consumer_generation": None,
        }
        return _send(connection, "PUT", f"/allocations/{wanted.consumer}", body, wanted.version)

    _retried(attempt, sleep)


def delete_allocations(connection: Connection, consumer: str, *, sleep: Callable[[float], None] = time.sleep) -> bool:
    """Remove all allocations of a consumer, if there are any.

    As ``delete_allocation_for_instance`` without force: a PUT of no allocations with the consumer's generation, so that a
    concurrent change is not lost.

    :returns: whether there were any
    :raises CallFailed: ``kind`` is ``conflict`` when another process changed them meanwhile
    """

    def attempt() -> Response | None:
        held = allocations_of(connection, consumer)
        if not held["allocations"]:
            return None
        body = {**held, "allocations": {}}
        return _send(connection, "PUT", f"/allocations/{consumer}", body, MICROVERSION)

    return _retried(attempt, sleep) is not None


def provider_names(connection: Connection, uuids: Iterable[str]) -> dict[str, str]:
    """Return the names of resource providers (for a compute node, its hypervisor's host name).

    :returns: name by UUID; those that do not exist are left out
    """
    names = {}
    for uuid in sorted(set(uuids)):
        path = f"/resource_providers/{uuid}"
        response = request(connection, "placement", "GET", path, microversion=MICROVERSION, accept={404})
        if response.status_code == 200:
            names[uuid] = parsed(response, "placement", lambda body: str(body["name"]))
    return names


def room_of(connection: Connection, provider: str) -> dict[str, tuple[float, float]]:
    """How much of each resource class a provider has to give, and how much of that is taken; two calls.

    :returns: (capacity, used) by class, as placement counts: (total - reserved) * allocation_ratio; nothing when
        there is no such provider
    """
    path = f"/resource_providers/{provider}"
    answers = [
        request(connection, "placement", "GET", f"{path}/{what}", microversion=MICROVERSION, accept={404})
        for what in ("inventories", "usages")
    ]
    if any(answer.status_code == 404 for answer in answers):
        return {}
    used = parsed(answers[1], "placement", lambda body: dict(body["usages"]))
    return parsed(
        answers[0],
        "placement",
        lambda body: {
            name: ((each["total"] - each.get("reserved", 0)) * each.get("allocation_ratio", 1.0), used.get(name, 0))
            for name, each in body["inventories"].items()
        },
    )


def resources_of(allocations: Fields) -> dict[str, dict[str, int]]:
    """Only the amounts by provider and resource class, for comparing."""
    return {provider: dict(held["resources"]) for provider, held in allocations.items()}


def _send(connection: Connection, method: str, path: str, body: Body, version: str) -> Response:
    """Send an update; a concurrent update comes back as the response, other refusals are raised."""
    response = request(connection, "placement", method, path, json=body, microversion=version, accept={409})
    if response.status_code == 409 and not _is_conflict(response):
        raise failure_of(response, call_name("placement", method, path))
    return response


def _is_conflict(response: Response) -> bool:
    """Whether it is a 409 because of a concurrent update, and not for lack of resources."""
    return response.status_code == 409 and _error(response).get("code") == "placement.concurrent_update"


def _error(response: Response) -> Resource:
    try:
        return dict(response.json()["errors"][0])
    except NOT_UNDERSTOOD:
        return {}


class _ProviderChanged(CallFailed):
    """Another process changed a resource provider meanwhile."""


def _retried(attempt: Callable[[], Response | None], sleep: Callable[[float], None]) -> Response | None:
    """Repeat an attempt after a concurrent update of a provider, as often as nova does.

    :returns: the response of the attempt that succeeded
    :raises CallFailed: ``kind`` is ``conflict``: a consumer was changed, or all attempts failed
    """

    def checked() -> Response | None:
        response = attempt()
        if response is None or response.status_code < 400:
            return response
        # placement has one code for both, so nova compares these words, too.
        if "consumer generation conflict" in str(_error(response).get("detail", "")):
            raise CallFailed("another process changed the allocations meanwhile", kind="conflict")
        raise _ProviderChanged("placement's providers kept changing; try again later", kind="conflict")

    waits = [random.uniform(0, number * 2) for number in range(1, ATTEMPTS)]  # noqa: S311 - jitter, not a secret
    policy = RetryPolicy(lambda error: isinstance(error, _ProviderChanged), attempts=ATTEMPTS, waits=waits)
    return with_retry(checked, policy, Clock(sleep=sleep))
