"""The OpenStack daemons of the lab: which there are, how each is started, and how each is asked whether it answers."""

import fcntl
import json
import os
import re
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from lab import config, kvm_config, kvm_hosts, processes, stores
from lab.layout import CELLS, HOSTS, KVM_HOSTS, LOOPBACK, PASSWORD, REPOSITORY, LabError

INSIDE = REPOSITORY / "lab" / "inside"


@dataclass(frozen=True)
class Service:
    """One daemon that is forked from a process which has already imported its project.

    `entry` is `main:<module>:<function>` or `wsgi:<module>`; the latter is served on the port named `port`.
    With a `machine` it joins that daemon's mounts and host name (lab/kvm_hosts.py).
    """

    name: str
    group: str
    entry: str
    arguments: tuple = ()
    variables: dict = field(default_factory=dict)
    port: str | None = None
    machine: str | None = None


# What each group imports before it forks.  Never a module that reads its configuration while it is imported.
PRELOADED = {
    "keystone": ("keystone.server.wsgi", "keystone.server.flask.application"),
    "placement": ("placement.deploy", "placement.handler"),
    "glance": ("glance.common.wsgi_app", "glance.api.v2.router"),
    "cinder-api": ("cinder.wsgi.wsgi",),
    "cinder": ("cinder.cmd.volume", "cinder.cmd.scheduler"),
    "neutron": ("neutron.cmd.server", "neutron.plugins.ml2.plugin", "neutron.server.api"),
    "nova": ("nova.cmd.compute", "nova.cmd.conductor", "nova.cmd.scheduler", "nova.compute.manager", "nova.virt.fake",
             "nova.conductor.manager", "nova.scheduler.manager", "nova.api.openstack.wsgi_app",
             "nova.api.openstack.compute"),
    "agent": (),
}  # fmt: skip


def all_services(layout):
    """Every OpenStack daemon that the lab has just now, in the order in which people think of them."""
    return ordinary_services(layout) + (kvm_services(layout) if layout.kvm else [])


def ordinary_services(layout):
    """Those of every lab."""
    etc = layout.etc
    # The API takes no folder: the files in it are named one by one.
    files = [str(path.relative_to(etc / "nova")) for path in config.nova_api_files(layout)]
    nova = {"OS_NOVA_CONFIG_DIR": etc / "nova", "OS_NOVA_CONFIG_FILES": ";".join(["api-paste.ini", *files])}
    neutron = {"OS_NEUTRON_CONFIG_DIR": etc / "neutron", "OS_NEUTRON_CONFIG_FILES": "neutron.conf"}
    cinder = ("--config-file", etc / "cinder" / "cinder.conf")
    found = [
        Service(
            "keystone",
            "keystone",
            "wsgi:keystone.wsgi.api",
            variables={"OS_KEYSTONE_CONFIG_FILES": etc / "keystone" / "keystone.conf"},
            port="keystone",
        ),
        Service(
            "placement",
            "placement",
            "wsgi:placement.wsgi.api",
            variables={"OS_PLACEMENT_CONFIG_DIR": etc / "placement"},
            port="placement",
        ),
        Service(
            "glance",
            "glance",
            "wsgi:glance.wsgi.api",
            variables={"OS_GLANCE_CONFIG_DIR": etc / "glance"},
            port="glance",
        ),
        Service("cinder-api", "cinder-api", "wsgi:cinder.wsgi.api", cinder, port="cinder"),
        Service("cinder-scheduler", "cinder", "main:cinder.cmd.scheduler:main", cinder),
        Service("cinder-volume", "cinder", "main:cinder.cmd.volume:main", cinder),
        Service("neutron-api", "neutron", "wsgi:neutron.wsgi.api", variables=neutron, port="neutron"),
        Service("neutron-rpc", "neutron", "main:neutron.cmd.server:main_rpc", variables=neutron),
        Service("network-agent", "agent", "main:agent:main", (json.dumps(agent_settings(layout)),)),
        Service("nova-api", "nova", "wsgi:nova.wsgi.osapi_compute", variables=nova, port="nova"),
    ]
    level = layout.nova_conf_arguments
    found.append(Service("nova-scheduler", "nova", "main:nova.cmd.scheduler:main", level))
    found.append(Service("nova-superconductor", "nova", "main:nova.cmd.conductor:main", level))
    for cell in CELLS:
        files = ("--config-file", etc / "nova" / f"nova-{cell}.conf")
        found.append(Service(f"nova-conductor-{cell}", "nova", "main:nova.cmd.conductor:main", files))
    for host in HOSTS:
        arguments = tuple(word for file in config.compute_files(layout, host) for word in ("--config-file", file))
        found.append(Service(compute_name(host), "nova", "main:nova.cmd.compute:main", arguments))
    return found


def kvm_services(layout):
    """The OpenStack daemons of the hosts with a real hypervisor."""
    settings = (json.dumps(kvm_agent_settings(layout)),)
    found = [Service("network-agent-kvm", "agent", "main:agent:main", settings)]
    for host in KVM_HOSTS:
        arguments = tuple(word for file in kvm_config.compute_files(layout, host) for word in ("--config-file", file))
        machine = kvm_hosts.daemon("machine", host)
        name = compute_name(host)
        found.append(Service(name, "nova", "main:nova.cmd.compute:main", arguments, machine=machine))
    return found


def kvm_agent_settings(layout):
    """What the network agent of the hosts with a real hypervisor has to know: it looks into their switches."""
    switches = {host: str(kvm_hosts.private(layout, host, "/run/openvswitch")) for host in KVM_HOSTS}
    return {**agent_settings(layout), "hosts": {}, "switches": switches, "addresses": KVM_HOSTS}


def agent_settings(layout):
    """What the fake network agent has to know."""
    return {
        "transport_url": layout.transport_url(),
        "config": str(layout.etc / "neutron" / "agent.conf"),
        "hosts": {host: str(layout.host_state(host) / "guests") for host in HOSTS},
        "switches": {},
        "addresses": HOSTS,
        "faults": str(layout.faults),
        "database": {"host": LOOPBACK, "port": layout.port("mariadb"), "user": "neutron", "password": PASSWORD,
                     "database": "neutron", "ssl": None if layout.plain else {"ca": str(layout.ca)}},
    }  # fmt: skip


def compute_name(host):
    """The daemon's name of the nova-compute of one host."""
    return f"nova-compute-{host}"


def variables(layout, service):
    """A daemon's environment: what its project reads, and under which names oslo.messaging's queue manager counts.

    It counts in /dev/shm/<hostname>_<processname>_qmanager, so both have to be unique among all daemons of all labs here.
    Its own default for the second is the name of the process that forks them all.
    """
    queues = {"HOSTNAME": queue_host(layout), "PROCESSNAME": service.name}
    return service.variables | {f"OS_OSLO_MESSAGING_RABBIT__{name}": value for name, value in queues.items()}


def queue_host(layout):
    """What the lab's daemons call this machine in the names of their queues."""
    return f"lab{layout.port_base}"


def certificate(layout):
    """The certificate that an API shows, and its key; None in a plain lab."""
    return None if layout.plain else [str(layout.certificates / f"server.{end}") for end in ("pem", "key")]


def forget_queue_counters(layout):
    """Remove the queue manager's files when no daemon of the lab is left."""
    for path in Path("/dev/shm").glob(f"{queue_host(layout)}_*_qmanager"):
        path.unlink(missing_ok=True)


def plan(layout, services):
    """What `inside/starter.py` is told: JSON."""
    return {
        "preload": list(dict.fromkeys(module for service in services for module in PRELOADED[service.group])),
        "paths": [str(INSIDE)],
        "virt": str(INSIDE / "virt"),
        "run": str(layout.run),
        "services": [
            {
                "name": service.name,
                "entry": service.entry,
                "arguments": [str(word) for word in service.arguments],
                "variables": {name: str(value) for name, value in variables(layout, service).items()},
                "address": LOOPBACK,
                "port": layout.port(service.port) if service.port else None,
                "certificate": certificate(layout),
                "log": str(layout.log / f"{service.name}.log"),
                "machine": processes.running_pid(layout, service.machine) if service.machine else None,
            }
            for service in services
        ],
    }


def start(layout, services):
    """Fork services of one group from one process that imports the project once.  What already runs is left alone.

    Each service is a daemon of its own, with its own session, log and record, and can be ended and started alone.
    """
    dead = [service for service in services if not processes.running_pid(layout, service.name)]
    if not dead:
        return []
    # A worker whose master was killed would keep the queue or the port.
    processes.end(layout, [service.name for service in dead], patience=0)
    layout.run.mkdir(parents=True, exist_ok=True)
    layout.log.mkdir(parents=True, exist_ok=True)
    stays = all(service.group == "nova" for service in dead)
    answer = (ask_starter if stays else run_starter)(layout, plan(layout, dead))
    for name, pid in json.loads(answer).items():
        processes.record(layout, name, pid)
    return [service.name for service in dead]


def run_starter(layout, wanted):
    """Let a process import what a plan needs, fork its daemons, and end; what it answers."""
    done = subprocess.run(
        [str(layout.python), "-W", "ignore", str(INSIDE / "starter.py")],
        input=json.dumps(wanted),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=processes.environment(layout),
        cwd=layout.home,
        check=False,
    )
    if done.returncode:
        names = ", ".join(service["name"] for service in wanted["services"])
        raise LabError(f"cannot start {names}:\n{done.stdout[-3000:]}")
    return done.stdout.splitlines()[-1]


STARTER = "starter"
STARTER_SECONDS = 120


def ask_starter(layout, wanted):
    """Let the process that has imported nova fork the daemons of a plan; it is started if it does not run."""
    path = layout.run / "starter.sock"
    with open(layout.run / "starter.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not processes.running_pid(layout, STARTER):
            start_starter(layout, path)
        folder = os.open(layout.run, os.O_RDONLY)  # an address has room for a hundred characters only
        try:
            with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rw") as stream:
                connection.settimeout(STARTER_SECONDS)
                connection.connect(f"/proc/self/fd/{folder}/{path.name}")
                stream.write(json.dumps(wanted) + "\n")
                stream.flush()
                return stream.readline()
        finally:
            os.close(folder)


def start_starter(layout, path):
    """Start that process, and wait until it listens."""
    path.unlink(missing_ok=True)
    first = {"preload": PRELOADED["nova"], "paths": [str(INSIDE)], "virt": str(INSIDE / "virt")}
    command = [layout.python, "-W", "ignore", INSIDE / "starter.py", path, json.dumps(first)]
    processes.start_daemon(layout, STARTER, command)
    deadline = time.monotonic() + STARTER_SECONDS
    while not path.exists():
        if not processes.running_pid(layout, STARTER) or time.monotonic() > deadline:
            raise LabError(f"cannot import nova; the end of its log:\n{processes.log_tail(layout, STARTER)}")
        time.sleep(0.05)


def tls_context(layout):
    """What the lab's own requests trust; None in a plain lab."""
    return None if layout.plain else ssl.create_default_context(cafile=layout.ca)


def open_url(layout, request, timeout):
    """Send a request to one of the lab's APIs. Raises OSError."""
    return urllib.request.urlopen(request, timeout=timeout, context=tls_context(layout))


def http_answers(layout, service):
    """None if an HTTP service answers with anything but a server error, else what it did."""
    try:
        with open_url(layout, layout.url(service.port) + "/", timeout=5) as response:
            response.read()
        return None
    except urllib.error.HTTPError as wrong:
        return None if wrong.code < 500 else f"HTTP {wrong.code}"
    except OSError as wrong:
        return str(getattr(wrong, "reason", wrong))


def get_token(layout):
    """An administrator's token and its project, from keystone."""
    domain = {"name": "Default"}
    user = {"name": "admin", "domain": domain, "password": PASSWORD}
    body = {
        "auth": {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": {"project": {"name": "admin", "domain": domain}},
        }
    }
    request = urllib.request.Request(
        layout.auth_url + "/auth/tokens",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with open_url(layout, request, timeout=30) as response:
        return response.headers["X-Subject-Token"], json.load(response)["token"]["project"]["id"]


# A request that needs the service's database, its policy, and keystone: what `make lab-up` believes in.
PROOFS = {
    "keystone": "/v3/users",
    "placement": "/resource_providers",
    "glance": "/v2/images?limit=1",
    "cinder-api": "/v3/{project}/volumes?limit=1",
    "neutron-api": "/v2.0/networks?limit=1",
    "nova-api": "/v2.1/servers?limit=1",
}


def ask(layout, port, path):
    """What an API says to a question of the administrator's, as JSON text. Raises OSError."""
    token, project = get_token(layout)
    request = urllib.request.Request(layout.url(port) + path.format(project=project), headers={"X-Auth-Token": token})
    with open_url(layout, request, timeout=30) as response:
        return response.read()


def really_answers(layout, service):
    """None if an API answers a question of the administrator's, else what it did."""
    try:
        ask(layout, service.port, PROOFS[service.name])
        return None
    except urllib.error.HTTPError as wrong:
        return f"HTTP {wrong.code} for {wrong.url}"
    except OSError as wrong:
        return str(getattr(wrong, "reason", wrong))


def can_place_volumes(layout):
    """None if cinder's scheduler knows what the volume service can do, else what it did.

    Both beat before that: capabilities are told by a message, at the start and then by the clock, and the one of the
    start can come before there is anybody to hear it. Until the next, every volume ends in error.
    """
    try:
        pools = json.loads(ask(layout, "cinder", "/v3/{project}/scheduler-stats/get_pools"))["pools"]
    except OSError as wrong:
        return f"cinder's pools: {getattr(wrong, 'reason', wrong)}"
    return None if pools else "it has not heard from the volume service yet"


def broker_connection(layout):
    """A connection to the broker, over TLS where it wants that. Raises OSError."""
    connection = socket.create_connection((LOOPBACK, layout.port("rabbitmq")), timeout=3)
    context = tls_context(layout)
    if context is None:
        return connection
    try:
        return context.wrap_socket(connection, server_hostname=LOOPBACK)
    except OSError:
        connection.close()
        raise


def amqp_answers(layout):
    """None if RabbitMQ begins the AMQP handshake."""
    try:
        with broker_connection(layout) as connection:
            connection.sendall(b"AMQP\0\0\x09\x01")
            frame = connection.recv(11)
    except OSError as wrong:
        return str(wrong)
    # A method frame that says connection.start: class 10, method 10.
    return None if frame[:1] == b"\x01" and frame[7:11] == b"\0\x0a\0\x0a" else f"unexpected words: {frame!r}"


def mariadb_answers(layout):
    """None if SQL works as the lab's administrator (the init file has run, then)."""
    try:
        stores.query(layout, "SELECT 1", "nova_cell2")
    except LabError as wrong:
        return str(wrong).splitlines()[0]
    return None


def heartbeats(layout):
    """name -> seconds since the last heartbeat, for everything that only a heartbeat shows to be alive.

    A heartbeat of a nova-compute has gone through its cell's bus and conductor, one of the network agent through
    neutron's RPC server, so they show more than a pid.
    """
    statements = [
        f"SELECT CONCAT('{level}/', `binary`, '/', host), TIMESTAMPDIFF(SECOND, last_seen_up, UTC_TIMESTAMP()) "
        f"FROM nova_{level}.services WHERE deleted = 0 AND last_seen_up IS NOT NULL"
        for level in ("cell0", *CELLS)
    ]
    statements.append(
        "SELECT CONCAT('cinder/', `binary`, '/', host), TIMESTAMPDIFF(SECOND, updated_at, UTC_TIMESTAMP()) "
        "FROM cinder.services WHERE deleted = 0 AND updated_at IS NOT NULL"
    )
    statements.append(
        "SELECT CONCAT('agent/', host), TIMESTAMPDIFF(SECOND, heartbeat_timestamp, UTC_TIMESTAMP()) FROM neutron.agents"
    )
    return {name: int(age) for name, age in stores.query(layout, " UNION ALL ".join(statements))}


def beating(ages, pattern, since):
    """None if something whose name matches has beaten after the service was started, else what is wrong."""
    found = [age for name, age in ages.items() if re.fullmatch(pattern, name)]
    if not found:
        return "no heartbeat yet"
    return None if min(found) <= since else f"last heartbeat {min(found)} s ago"


def heartbeat_pattern(service):
    """Which heartbeats belong to a service; None for those that are asked over HTTP."""
    if service.name.startswith("nova-compute-"):
        host = service.name.removeprefix("nova-compute-")
        return rf"cell\d/nova-compute/{host}"
    if service.name.startswith("nova-conductor-"):
        return rf"{service.name.removeprefix('nova-conductor-')}/nova-conductor/.*"
    return {
        "nova-scheduler": r"cell0/nova-scheduler/.*",
        "nova-superconductor": r"cell0/nova-conductor/.*",
        "cinder-scheduler": r"cinder/cinder-scheduler/.*",
        "cinder-volume": r"cinder/cinder-volume/.*",
        "network-agent": rf"agent/({'|'.join(HOSTS)})",
        "network-agent-kvm": rf"agent/({'|'.join(KVM_HOSTS)})",
        "neutron-rpc": r"agent/.*",
    }.get(service.name)


def problem(layout, service, since, ages=None):
    """None if a service runs and answers; else what is wrong, in a few words."""
    if not processes.running_pid(layout, service.name):
        return "it has ended"
    if service.port:
        return http_answers(layout, service)
    wrong = beating(heartbeats(layout) if ages is None else ages, heartbeat_pattern(service), since)
    return wrong or (can_place_volumes(layout) if service.name == "cinder-scheduler" else None)
