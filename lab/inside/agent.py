"""Runs inside the lab's environment: the network agents of all compute hosts, without a network.

For each host it does what neutron's Open vSwitch agent does towards the server, over the same RPC: it reports its
state, says that a port is up when the guest that owns it runs on that host, and down when it no longer does.  What a
guest has plugged in stands in the driver's guest records; on a host with a real hypervisor, in its Open vSwitch.

A file `<faults>/<host>/agent` makes the agent of that host disappear at once, row and all, so that neutron refuses to
bind a port there; without the file it comes back.
"""

import datetime
import functools
import json
import os
import socket
import sys
import time
import uuid

REPORT_SECONDS = 5  # lab.hosts.wait_for_all waits for one report after an outage
REPORT_TIMEOUT = 4  # short: a call made before the server listens is lost, and the next one is only made after it
LOOK_SECONDS = 0.3
REPAIR_SECONDS = 0.5

RUNNING = 1  # nova.compute.power_state


def plugged(folder):
    """The ports of the guests that run on a host, by its guest records."""
    ports = set()
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return ports
    for name in names:
        if not name.endswith(".json"):
            continue
        try:
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                guest = json.load(file)
        except (FileNotFoundError, ValueError):
            continue
        if guest["state"] == RUNNING:
            ports.update(guest["ports"])
    return ports


def switched(folder):
    """The ports whose interface a host's Open vSwitch has and can use, asked as `ovs-vsctl` would ask.

    Only then may nova hear that a port is wired: it begins to listen shortly before it makes the interface.  The row of
    a guest that is off stays, its number too; but without a device it has no status.
    """
    handle = os.open(folder, os.O_RDONLY)  # the address of a socket has room for a hundred characters only
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(f"/proc/self/fd/{handle}/db.sock")
            rows = ask_switch(connection, ["external_ids", "ofport", "status"])
    finally:
        os.close(handle)
    ports = set()
    for row in rows:
        names = dict(row["external_ids"][1])
        usable = isinstance(row["ofport"], int) and row["ofport"] > 0 and row["status"][1]
        if "iface-id" in names and usable:
            ports.add(names["iface-id"])
    return ports


def ask_switch(connection, columns):
    """Columns of all interfaces, by the protocol of RFC 7047."""
    select = {"op": "select", "table": "Interface", "where": [], "columns": columns}
    request = {"id": 1, "method": "transact", "params": ["Open_vSwitch", select]}
    connection.sendall(json.dumps(request).encode())
    answer = b""
    while True:
        part = connection.recv(65536)
        if not part:
            raise ConnectionError("the switch has hung up")
        answer += part
        try:
            return json.loads(answer)["result"][0]["rows"]
        except ValueError:
            continue  # not all of it yet


def agent_state(host, address, first):
    """What an Open vSwitch agent with a tunnel reports."""
    state = {
        "agent_type": "Open vSwitch agent",
        "binary": "neutron-openvswitch-agent",
        "host": host,
        "topic": "N/A",
        "configurations": {
            "bridge_mappings": {},
            "tunnel_types": ["vxlan"],
            "tunneling_ip": address,
            "l2_population": False,
            "enable_distributed_routing": False,
            "integration_bridge": "br-int",
            "datapath_type": "netdev",
            "ovs_capabilities": {"datapath_types": ["netdev"], "iface_types": []},
            "extensions": [],
        },
        "uuid": str(uuid.uuid4()),
    }
    if first:
        state["start_flag"] = True
    return state


class Server:
    """Neutron's server, as an agent sees it: two RPC topics, and (for what no agent may do) its database."""

    def __init__(self, settings):
        import oslo_messaging
        import pymysql
        from oslo_config import cfg

        oslo_messaging.set_transport_defaults("neutron")
        cfg.CONF(["--config-file", settings["config"]], project="neutron")
        transport = oslo_messaging.get_rpc_transport(cfg.CONF, url=settings["transport_url"])
        self.reports = oslo_messaging.get_rpc_client(
            transport, oslo_messaging.Target(topic="q-reports-plugin", version="1.4"), timeout=REPORT_TIMEOUT
        )
        self.plugin = oslo_messaging.get_rpc_client(
            transport, oslo_messaging.Target(topic="q-plugin", version="1.9"), timeout=30
        )
        self.context = {"is_admin": True, "roles": ["admin"], "user_id": None, "project_id": None}
        self.settings = settings
        self.connect = lambda: pymysql.connect(autocommit=True, **settings["database"])
        self.connection = None

    def sql(self, statement, values):
        """Run one statement; reconnect after the database was restarted."""
        try:
            if self.connection is None:
                self.connection = self.connect()
            with self.connection.cursor() as cursor:
                cursor.execute(statement, values)
                return cursor.fetchall()
        except Exception:
            self.connection = None
            raise

    def report(self, host, first):
        """Say that the agent of a host lives."""
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")
        state = agent_state(host, self.settings["addresses"][host], first)
        self.reports.call(self.context, "report_state", agent_state={"agent_state": state}, time=now)

    def forget(self, host):
        """Take away the row of a host's agent."""
        self.sql("DELETE FROM agents WHERE host = %s", (host,))

    def up(self, host, port):
        """Say that a port is wired on a host."""
        self.plugin.call(self.context, "update_device_up", device=port, agent_id=f"ovs-{host}", host=host)

    def down(self, host, port):
        """Say that a port is no longer there."""
        self.plugin.call(self.context, "update_device_down", device=port, agent_id=f"ovs-{host}", host=host)

    def not_active(self, ports):
        """Which of these ports neutron does not call ACTIVE, though their guests run."""
        if not ports:
            return set()
        marks = ", ".join(["%s"] * len(ports))
        rows = self.sql(f"SELECT id FROM ports WHERE status <> 'ACTIVE' AND id IN ({marks})", tuple(ports))
        return {row[0] for row in rows}


class Host:
    """One compute host's agent: what it has told the server so far."""

    def __init__(self, name, plugged_now, faults):
        self.name = name
        self.plugged_now = plugged_now
        self.fault = os.path.join(faults, name, "agent")
        self.reported = None
        self.wired = set()
        self.gone = False

    def look(self, server):
        """One round: report, plug, unplug."""
        if os.path.exists(self.fault):
            if not self.gone:
                server.forget(self.name)
                self.gone, self.reported, self.wired = True, None, set()
            return
        self.gone = False
        if self.reported is None or time.monotonic() - self.reported > REPORT_SECONDS:
            server.report(self.name, self.reported is None)
            self.reported = time.monotonic()
        now = self.plugged_now()
        for port in now - self.wired:
            server.up(self.name, port)
            self.wired.add(port)
        for port in self.wired - now:
            server.down(self.name, port)
            self.wired.discard(port)

    def repair(self, server):
        """Wire again what a change of the binding has set to DOWN while the guest runs, as a real agent is told to."""
        if not self.gone:
            for port in server.not_active(self.wired):
                server.up(self.name, port)


def main():
    """Go round all hosts, for ever."""
    settings = json.loads(sys.argv[1])
    server = Server(settings)
    looks = {name: functools.partial(plugged, folder) for name, folder in settings["hosts"].items()}
    looks |= {name: functools.partial(switched, folder) for name, folder in settings["switches"].items()}
    hosts = [Host(name, look, settings["faults"]) for name, look in looks.items()]
    repaired = 0.0
    while True:
        due = time.monotonic() - repaired > REPAIR_SECONDS
        for host in hosts:
            try:
                host.look(server)
                if due:
                    host.repair(server)
            except Exception as problem:
                print(f"{datetime.datetime.now():%H:%M:%S} {host.name}: {problem!r}"[:500], flush=True)
        if due:
            repaired = time.monotonic()
        time.sleep(LOOK_SECONDS)
