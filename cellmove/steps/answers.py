"""What the cloud's APIs say about all servers of a cell: asked for when a server first needs it, and kept for the others.

So it takes calls a host, a resource provider, a page of a list, a project or a flavor, and none a server. The lists,
which take longest, are read a few at a time while the databases are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING, TypeVar

from cellmove.cloud import candidates, identity, network, placement, quota, stores, volume
from cellmove.db.look import COMPUTE
from cellmove.steps import plan

if TYPE_CHECKING:
    from cellmove.checks.snapshot import Target
    from cellmove.cloud.network import Port
    from cellmove.cloud.quota import Quota
    from cellmove.cloud.volume import Attachment
    from cellmove.db.shapes import Flavor
    from cellmove.gateway import Gateway

T = TypeVar("T")

WORKERS = 4
"""How many lists are read at once: other people use the APIs, too."""


@dataclass(frozen=True)
class Ports:
    """The ports that have a binding for any of the hosts that were asked about.

    :param of_server: by server
    :param hosts: the hosts that a port has a binding for and is not active on, by port id; those without are left out
    """

    of_server: Mapping[str, tuple[Port, ...]]
    hosts: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Answers:
    """The APIs' answers about one cell's servers.

    :param servers: all of them
    :param hosts: the cell's hosts; ``providers`` are its compute nodes
    :param targets: the cells that they may go to
    """

    gateway: Gateway
    servers: Collection[str]
    hosts: Collection[str]
    providers: Collection[str]
    targets: tuple[Target, ...]
    pool: Executor = field(default_factory=lambda: ThreadPoolExecutor(WORKERS))
    stopped: Event = field(default_factory=Event)
    kept: dict[Hashable, object] = field(default_factory=dict)
    begun_ports: dict[str, Future[list[tuple[str, Port]]]] = field(default_factory=dict)
    begun_consumers: dict[str, Future[list[str]]] = field(default_factory=dict)
    begun_volumes: list[Future[dict[str, tuple[str, str]]]] = field(default_factory=list)
    begun_attachments: list[Future[dict[str, tuple[Attachment, ...]]]] = field(default_factory=list)

    def begin(self) -> None:
        """Begin to read the lists that servers will be looked for in."""
        for connection, name in ((self.gateway.service, "network"), (self.gateway.admin, "block_storage")):
            getattr(connection, name)  # finds its endpoint, once and not once a thread
        there = {each.host for target in self.targets for each in target.services if each.binary == COMPUTE}
        for host in (*sorted(self.hosts), *sorted(there - set(self.hosts))):
            self.begun_ports[host] = self.pool.submit(self._ports_on, host)
        for provider in sorted(self.providers):
            self.begun_consumers[provider] = self.pool.submit(self._consumers_of, provider)
        self.begun_volumes.append(self.pool.submit(self._volume_states))
        self.begun_attachments.append(self.pool.submit(self._attachments))

    def end(self) -> None:
        """Read no further; what is asked just now is waited for."""
        self.stopped.set()
        self.pool.shutdown(cancel_futures=True)

    def _while_wanted(self, listed: Iterable[T]) -> Iterator[T]:
        return itertools.takewhile(lambda _each: not self.stopped.is_set(), listed)

    def once(self, what: Hashable, ask: Callable[[], T]) -> T:
        """An answer, asked for the first time only."""
        if what not in self.kept:
            self.kept[what] = ask()
        answer: T = self.kept[what]  # type: ignore[assignment]
        return answer

    # neutron

    def has_extended_binding(self) -> bool:
        """Whether neutron can bind a port to two hosts."""
        return self.once("extended", lambda: network.has_extended_binding(self.gateway.service))

    def ports(self) -> Ports:
        """The ports on the cell's hosts, and what they have on the hosts of the targets."""
        return self.once("ports", self._ports)

    def _ports(self) -> Ports:
        found: dict[str, tuple[str, Port]] = {}
        bound: dict[str, tuple[str, ...]] = {}
        for host in list(self.begun_ports):
            for server_id, port in self.begun_ports.pop(host).result():
                found[port.id] = (server_id, port)
                if port.host != host:
                    bound[port.id] = (*bound.get(port.id, ()), host)
        return Ports(_by_server(found.values()), bound)

    def _ports_on(self, host: str) -> list[tuple[str, Port]]:
        listed = self._while_wanted(network.ports_on(self.gateway.service, host))
        return [(server_id, port) for server_id, port in listed if server_id in self.servers]

    def ports_elsewhere(self, servers: Iterable[str]) -> dict[str, tuple[Port, ...]]:
        """The ports of servers that have more of them than are bound to hosts of the cell: wherever they are."""
        return _by_server(network.ports_of_servers(self.gateway.service, servers))

    # cinder

    def volume_states(self) -> Mapping[str, tuple[str, str]]:
        """The status and the availability zone of every volume of the cloud."""
        return self.once("volumes", lambda: self.begun_volumes.pop().result())

    def _volume_states(self) -> dict[str, tuple[str, str]]:
        listed = self._while_wanted(volume.all_states(self.gateway.admin))
        seen: dict[tuple[str, str], tuple[str, str]] = {}  # one pair for many volumes
        return {volume_id: seen.setdefault((status, zone), (status, zone)) for volume_id, status, zone in listed}

    def attachments(self) -> Mapping[str, tuple[Attachment, ...]]:
        """The servers' attachments, in the order of their ids."""
        return self.once("attachments", lambda: self.begun_attachments.pop().result())

    def _attachments(self) -> dict[str, tuple[Attachment, ...]]:
        found: dict[str, list[Attachment]] = {}
        for each in self._while_wanted(volume.all_attachments(self.gateway.admin)):
            if each.server_id in self.servers:
                found.setdefault(each.server_id, []).append(each)
        return {server_id: tuple(sorted(own, key=lambda each: each.id)) for server_id, own in found.items()}

    # placement

    def allocations(self, server_id: str) -> frozenset[str]:
        """The providers that hold something for a server: of the cell, or else of the targets."""
        here = self.once("allocations", self._allocations)
        return here.get(server_id) or self.once("allocations elsewhere", self._elsewhere).get(server_id, frozenset())

    def _allocations(self) -> dict[str, frozenset[str]]:
        return _held({provider: self.begun_consumers.pop(provider).result() for provider in self.providers})

    def _elsewhere(self) -> dict[str, frozenset[str]]:
        return _held({node.uuid: self._consumers_of(node.uuid) for each in self.targets for node in each.nodes})

    def _consumers_of(self, provider: str) -> list[str]:
        listed = placement.consumers_of(self.gateway.admin, provider)
        return [consumer for consumer in listed if consumer in self.servers]

    def candidates(self, flavor: Flavor, *, volume_backed: bool) -> frozenset[str] | None:
        """The compute nodes that have room for a server of a flavor."""
        resources = candidates.wanted_resources(flavor, volume_backed=volume_backed)
        return self.once(
            ("candidates", *sorted(resources.items()), *candidates.wanted_traits(flavor)),
            lambda: candidates.offered(self.gateway.admin, flavor, volume_backed=volume_backed),
        )

    def narrowed(self, flavor: Flavor) -> Mapping[str, frozenset[str]]:
        """The compute nodes that can satisfy each thing that a flavor asks for beyond size."""
        specs = plan.aggregate_specs(flavor.extra_specs)
        what = ("narrowed", *candidates.wanted_traits(flavor), *sorted(specs.items()))
        return self.once(what, lambda: plan.narrowed(self.gateway, self.targets, flavor))

    def stores(self) -> Mapping[str, frozenset[str]]:
        """The compute nodes that use one store for their disks."""
        return self.once("stores", lambda: stores.sharing(self.gateway.admin))

    # nova and keystone

    def quotas(self, project_id: str, user_id: str) -> tuple[Quota, ...]:
        """The limits of a project and its user, and what is in use."""
        what = ("quotas", project_id, user_id)
        return self.once(what, lambda: quota.quotas(self.gateway.admin, project_id, user_id))

    def project_name(self, project_id: str) -> str:
        """A project's name; empty when keystone knows no such project."""
        return self.once(("project", project_id), lambda: identity.project_name(self.gateway.admin, project_id))


def _by_server(ports: Iterable[tuple[str, Port]]) -> dict[str, tuple[Port, ...]]:
    found: dict[str, list[Port]] = {}
    for server_id, port in ports:
        found.setdefault(server_id, []).append(port)
    return {server_id: tuple(own) for server_id, own in found.items()}


def _held(consumers: Mapping[str, Iterable[str]]) -> dict[str, frozenset[str]]:
    """The providers by consumer."""
    found: dict[str, frozenset[str]] = {}
    for provider, many in consumers.items():
        alone = frozenset({provider})  # shared by nearly all
        for consumer in many:
            found[consumer] = found[consumer] | alone if consumer in found else alone
    return found
