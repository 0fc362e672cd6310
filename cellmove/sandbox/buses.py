"""What listens on the message buses: conductors, the scheduler and the computes."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from cellmove.sandbox import compute, hosts, services
from cellmove.sandbox.compute_call import Call, Work
from cellmove.sandbox.store import HOSTS, Cloud, Record, Refusal, cell_of, envelope

CELL_UUIDS = {"cell1": "11111111-1111-4111-8111-111111111111", "cell2": "22222222-2222-4222-8222-222222222222"}

Hold = Callable[[Call, Work], Any]


class NoAnswer(Exception):
    """No service receives the message, or none answers it."""


def deliver(cloud: Cloud, bus: str, message: Mapping[str, Any], hold: Hold | None = None) -> Any:
    """Bring a message to whom it is for, and return the answer.

    :param bus: ``api``, ``cell1`` or ``cell2``
    :param message: topic, server, namespace, method, context and arguments
    :param hold: runs a compute's call instead of :func:`finish`, in tests
    :raises Refusal: the other side raised
    :raises NoAnswer: there is no such service
    """
    if "notification" in message:
        payload = {name: message[name] for name in ("topics", "publisher", "payload")}
        cloud.tell("notification", bus=bus, event_type=message["notification"], **payload)
        return None
    topic, server = message["topic"], message["server"]
    if topic in ("compute", "compute-alt"):
        return _compute(cloud, bus, message, hold)
    if f"{bus}-{topic}" in cloud.world.down:
        raise NoAnswer(f"no {topic} listens on the bus of {bus}")
    if message.get("namespace") == "baseapi":
        return {"service": topic, "arg": message["arguments"]["arg"]}
    if topic == "scheduler" and message["method"] == "select_destinations":
        with cloud.lock:
            return _select(cloud, **message["arguments"])
    if topic == "conductor" and message["method"] == "object_class_action_versions":
        return _object(cloud, bus, message["arguments"])
    raise Refusal("NoSuchMethod", f"{message['method']} on {topic} {server}")


def _compute(cloud: Cloud, bus: str, message: Mapping[str, Any], hold: Hold | None) -> Any:
    host = message["server"]
    if host not in HOSTS or cell_of(host) != bus:
        raise NoAnswer(f"no such host on the bus of {bus}: {host}")
    if message.get("namespace") == "baseapi":
        if host in cloud.world.down:
            raise NoAnswer(host)
        return {"service": "compute", "arg": message["arguments"]["arg"]}
    if host in cloud.world.down:
        cloud.world.queues[host].append(dict(message))
        raise NoAnswer(f"{host} is down; the message waits in its queue")
    call = call_of(cloud, message)
    work = compute.run(call)
    return hold(call, work) if hold else finish(cloud, work)


def call_of(cloud: Cloud, message: Mapping[str, Any]) -> Call:
    """The call that a message asks for."""
    arguments = dict(message["arguments"])
    instance, migration = arguments.pop("instance"), arguments.pop("migration")
    if message["method"] not in compute.METHODS:
        raise Refusal("NoSuchMethod", message["method"])
    return Call(
        cloud,
        message["server"],
        message["method"],
        message["context"]["request_id"],
        instance["nova_object.data"],
        migration["nova_object.data"],
        arguments,
    )


def finish(cloud: Cloud, work: Work, pace: float = 0.0, more: float = 0.0) -> Any:
    """Run a call to its end.

    :param pace: seconds between two writes; ``more`` are those that it takes besides, after its first write
    """
    while True:
        with cloud.lock:
            try:
                next(work)
            except StopIteration as end:
                return end.value
        time.sleep(pace + more)
        more = 0.0


def restart(cloud: Cloud, host: str) -> None:
    """Start a host: it looks after its servers, then takes what waits in its queue."""
    if host in cloud.world.down:
        cloud.world.down.remove(host)
    cloud.tell("host started", host=host)
    hosts.start_host(cloud, host)
    waiting, cloud.world.queues[host] = cloud.world.queues[host], []
    for message in waiting:
        try:
            finish(cloud, compute.run(call_of(cloud, message)))
        except Refusal as error:
            cloud.tell("late call refused", host=host, method=message["method"], why=str(error))


# objects


def _object(cloud: Cloud, bus: str, arguments: Mapping[str, Any]) -> Record:
    name, key = arguments["objname"], arguments["args"][0]
    version = arguments["object_versions"][name]
    if name == "RequestSpec":
        row = cloud.row("api", "request_specs", instance_uuid=key)
        spec: Record = json.loads((row or _missing("RequestSpecNotFound", key))["spec"])
        return spec
    if name == "Flavor":
        row = cloud.row("api", "flavors", flavorid=key) or _missing("FlavorNotFound", key)
        return flavor_object(row)
    table = {"Instance": "instances", "Migration": "migrations"}[name]
    row = cloud.row(bus, table, uuid=key, deleted=0) or _missing(f"{name}NotFound", key)
    data = {column: _plain(value) for column, value in row.items()}
    if name == "Instance":
        extra = cloud.row(bus, "instance_extra", instance_uuid=key, deleted=0) or {}
        flavors = json.loads(extra["flavor"])
        data |= {"flavor": flavors["cur"], "old_flavor": flavors["old"], "new_flavor": flavors["new"]}
        for table in ("metadata", "system_metadata"):
            found = cloud.rows(bus, f"instance_{table}", instance_uuid=key, deleted=0)
            data[table] = {each["key"]: each["value"] for each in found}
        cache = cloud.row(bus, "instance_info_caches", instance_uuid=key, deleted=0)
        data["info_cache"] = (
            envelope("InstanceInfoCache", "1.5", {"network_info": cache["network_info"]}) if cache else None
        )
    return envelope(name, version, data)


def _missing(kind: str, key: str) -> Record:
    raise Refusal(kind, f"{key} could not be found.")


def flavor_object(row: Mapping[str, Any]) -> Record:
    """A Flavor object for a row of the API database."""
    flags = {"extra_specs": {}, "disabled": False, "is_public": True, "deleted": False, "deleted_at": None}
    weight = {"vcpu_weight": row["vcpu_weight"] or 0}
    return envelope("Flavor", "1.2", {name: _plain(value) for name, value in row.items()} | flags | weight)


def _plain(value: Any) -> Any:
    return value.isoformat() + "Z" if isinstance(value, datetime.datetime) else value


# the scheduler


def _select(cloud: Cloud, instance_uuids: list[str] | None, spec_obj: Record, **_options: Any) -> list[list[Record]]:
    """Hosts that fit. The first one is claimed on top of what the server holds already, if servers are named."""
    spec = spec_obj["nova_object.data"]
    if cloud.fault("scheduler", "select"):
        raise Refusal("NovaException", "the sandbox was told to let the scheduler fail")
    flavor = spec["flavor"]["nova_object.data"]
    root = 0 if spec.get("is_bfv") else flavor["root_gb"]
    disk = root + flavor["ephemeral_gb"] + -(-flavor["swap"] // 1024)
    wanted = {"VCPU": flavor["vcpus"], "MEMORY_MB": flavor["memory_mb"]} | ({"DISK_GB": disk} if disk else {})
    chosen = services.room(cloud, wanted, [host for host in HOSTS if _fits(cloud, spec, host)])
    if not chosen:
        raise Refusal("NoValidHost", "No valid host was found. There are not enough hosts available.")
    if instance_uuids is None:
        return [[_selection(cloud, uuid, {}) for uuid in chosen[:3]]]
    server = instance_uuids[0]
    held = services.held(cloud, server)
    first = {chosen[0]: {"resources": wanted}}
    body = {
        "allocations": _added(held["allocations"], first),
        "consumer_generation": held.get("generation"),
        "project_id": spec["project_id"],
        "user_id": spec["user_id"],
    }
    services.put_allocations(cloud, {server: body})
    return [[_selection(cloud, uuid, wanted) for uuid in chosen[:3]]]


def _added(held: Mapping[str, Any], more: Mapping[str, Any]) -> Record:
    sums = {uuid: {"resources": dict(each["resources"])} for uuid, each in held.items()}
    for uuid, each in more.items():
        present = sums.setdefault(uuid, {"resources": {}})["resources"]
        for name, amount in each["resources"].items():
            present[name] = present.get(name, 0) + amount
    return sums


def _fits(cloud: Cloud, spec: Record, host: str) -> bool:
    destination = (spec.get("requested_destination") or {}).get("nova_object.data") or {}
    cell = ((destination.get("cell") or {}).get("nova_object.data") or {}).get("uuid")
    group = (spec.get("instance_group") or {}).get("nova_object.data") or {}
    service = cloud.row(cell_of(host), "services", host=host, binary="nova-compute") or {}
    isolating = _isolating_traits(cloud, host)
    return (
        host not in (spec.get("ignore_hosts") or ())
        and (cell is None or cell in _mappings_of(cloud, cell_of(host)))
        and destination.get("host") in (None, host)
        and not service["disabled"]
        and host not in cloud.world.down
        and not (group.get("policy") == "anti-affinity" and host in (group.get("hosts") or ()))
        and isolating <= _required_traits(spec)
    )


def _mappings_of(cloud: Cloud, cell: str) -> set[str]:
    """The UUIDs of all mappings of a cell's database: nova looks for hosts in the database of the cell that is asked for."""
    own = cloud.row("api", "cell_mappings", uuid=CELL_UUIDS[cell]) or {}
    rows = cloud.rows("api", "cell_mappings", database_connection=own.get("database_connection"))
    return {CELL_UUIDS[cell], *(row["uuid"] for row in rows)}


def _isolating_traits(cloud: Cloud, host: str) -> set[str]:
    """The traits that a server has to require, or its host's aggregates are not for it.

    nova/scheduler/request_filter.py, ``isolate_aggregates``, as with ``enable_isolated_aggregate_filtering``.
    """
    own = [row["aggregate_id"] for row in cloud.rows("api", "aggregate_hosts", host=host)]
    rows = [row for number in own for row in cloud.rows("api", "aggregate_metadata", aggregate_id=number)]
    return {row["key"] for row in rows if row["key"].startswith("trait:") and row["value"] == "required"}


def _required_traits(spec: Record) -> set[str]:
    """What the flavor requires, as its extra specs are spelt."""
    extra_specs = spec["flavor"]["nova_object.data"]["extra_specs"]
    return {key for key, value in extra_specs.items() if key.startswith("trait:") and value == "required"}


def _selection(cloud: Cloud, provider: str, wanted: Mapping[str, int]) -> Record:
    host = services.PROVIDERS[provider]
    return envelope(
        "Selection",
        "1.1",
        {
            "compute_node_uuid": provider,
            "service_host": host,
            "nodename": host,
            "cell_uuid": CELL_UUIDS[cell_of(host)],
            "limits": None,
            "allocation_request": json.dumps({"allocations": {provider: {"resources": wanted}}}) if wanted else None,
            "allocation_request_version": "1.36",
            "availability_zone": "nova",
        },
    )
