"""`lab up`: from nothing to a cloud that answers, or from a cloud with dead daemons to a whole one."""

import contextlib
import fcntl
import functools
import json
import socket
import subprocess
import time

from lab import certificates, config, install, kvm_up, processes, services, stores, tasks
from lab.layout import (
    CELL_UUIDS,
    CELLS,
    DATABASES,
    DEPLOYED,
    HOSTS,
    KVM_CELLS,
    KVM_HOSTS,
    LOOPBACK,
    PASSWORD,
    PLAIN,
    PORT_OFFSETS,
    REGION,
    LabError,
    check_kind,
)

# How long something may take until it answers, on a machine with two busy cores.
PATIENCE = 120


def say(words):
    """One plain line: this is read in CI logs as well as in terminals."""
    print(words, flush=True)


class Up:
    """One run of `lab up`; without `kvm` it lets the hosts with a real hypervisor alone, if the lab has them."""

    def __init__(self, layout, kvm=False):
        self.layout = layout
        self.kvm = kvm
        self.services = services.ordinary_services(layout) + (services.kvm_services(layout) if kvm else [])
        self.begun = {}
        self.cached = False

    # Waiting

    def wait(self, name, check):
        """Wait until check() returns None; give up with the end of the log when it has ended or takes too long."""
        deadline = time.monotonic() + PATIENCE
        while True:
            wrong = check()
            if wrong is None:
                return
            ended = not processes.running_pid(self.layout, name)
            if ended or time.monotonic() > deadline:
                how = "has ended" if ended else f"did not answer for {PATIENCE} s: {wrong}"
                raise LabError(f"{name} {how}; the end of {self.layout.log / name}.log:\n"
                               f"{processes.log_tail(self.layout, name)}")  # fmt: skip
            time.sleep(0.2)

    def start(self, *names, awaited=None):
        """Start the services of these names that are dead, and wait until each (or those awaited) answers."""
        chosen = [service for service in self.services if service.name in names]
        begun = time.time()
        started = services.start(self.layout, chosen)
        for service in chosen:
            self.begun.setdefault(service.name, begun if service.name in started else 0)
        for service in chosen:
            if awaited is None or service.name in awaited:
                self.wait(service.name, functools.partial(self.answer, service))

    def answer(self, service):
        """None if a service answers; a heartbeat must be younger than the service, and than a quarter of a minute."""
        age = min(15, int(time.time() - self.begun[service.name]))
        return services.problem(self.layout, service, age)

    def ask(self, name):
        """Wait until an API answers a real question.

        Also its first one: these APIs read their policies at the first request, and two first requests at the same
        time have been refused (403) by rules that were half read.
        """
        service = next(service for service in self.services if service.name == name)
        self.wait(name, lambda: services.really_answers(self.layout, service))

    # Steps

    def packages(self):
        """Debian packages."""
        install.debian(self.layout)

    def environment(self):
        """OpenStack."""
        install.python(self.layout)
        config.write(self.layout)

    def mariadb(self):
        """The database server."""
        if not processes.running_pid(self.layout, "mariadb"):
            processes.end(self.layout, ["mariadb"])
            stores.prepare_mariadb(self.layout)
            processes.start_daemon(self.layout, "mariadb", stores.mariadb_command(self.layout))
        self.wait("mariadb", lambda: services.mariadb_answers(self.layout))

    def rabbitmq(self):
        """The message bus, and Erlang's name service before it."""
        if not processes.running_pid(self.layout, "epmd"):
            processes.start_daemon(self.layout, "epmd", stores.epmd_command(self.layout))
        if not processes.running_pid(self.layout, "rabbitmq"):
            processes.end(self.layout, ["rabbitmq"])
            stores.prepare_rabbitmq(self.layout)
            processes.start_daemon(
                self.layout,
                "rabbitmq",
                stores.rabbitmq_command(self.layout),
                stores.rabbitmq_environment(self.layout),
            )
        self.wait("rabbitmq", lambda: services.amqp_answers(self.layout))

    def cache_path(self):
        """The dump for exactly these packages and ports (the catalog's first address is in it)."""
        lab = f"{self.layout.port_base}-{kind_of(self.layout)}"
        name = f"schema-{install.fingerprint(self.layout)}-{lab}.sql.gz"
        return self.layout.cache / name

    def from_cache(self):
        """Load all schemas at once if they were dumped before and there is nothing yet."""
        path = self.cache_path()
        self.cached = path.exists()
        if self.cached and not any(stores.table_counts(self.layout).values()):
            stores.load_cache(self.layout, path)

    def schema(self, project, *arguments):
        """The step that brings one project's database up to date."""
        databases = [database for database, owner in DATABASES.items() if owner == project]

        def make():
            marker = self.layout.state / "schemas" / f"{project}-{install.fingerprint(self.layout)}"
            if project == "keystone":
                self.python("schema.py", "keys", self.layout.state / "keystone")
            if not marker.exists():
                filled = self.cached and all(stores.table_counts(self.layout)[name] for name in databases)
                if not filled:
                    self.python("schema.py", project, *arguments)
                    if project == "nova":
                        self.copy_cells()
                    if project == "keystone":
                        self.python("schema.py", "bootstrap", *arguments, PASSWORD, REGION, self.layout.auth_url)
            marker.parent.mkdir(exist_ok=True)
            marker.touch()

        return make

    def copy_cells(self):
        """cell1 and cell2 have the tables of cell0: a copy takes a second, a third of all migrations ten."""
        sql = stores.dump(self.layout, ["nova_cell0"])
        for cell in CELLS:
            stores.load(self.layout, sql, f"nova_{cell}")

    def keep_schemas(self):
        """Dump the schemas while they are empty; whatever is in them later is not worth a cache."""
        if not self.cached:
            stores.save_cache(self.layout, self.cache_path())

    def operator(self):
        """cellmove's own database user. Rights are given on tables, so this comes after the schemas.

        A user whose rights are as documented stays: to make it anew would take its rights away for a moment.
        """
        if self.layout.plain:
            return
        statements = "\n".join(stores.operator_rights(self.layout))
        marker = self.layout.state / "furnished" / "database-user.sql"
        if marker.exists() and marker.read_text() == statements:
            return
        stores.query(self.layout, statements)
        marker.parent.mkdir(exist_ok=True)
        marker.write_text(statements)

    def cells(self):
        """The cell mappings, in the two forms that clouds have.

        kolla-ansible maps cells by full URLs and gives them no names; openstack-ansible names them and maps them by
        nova's templates. With two brokers nova's {password} is everything from the first password to the last.
        """
        template = "{scheme}://{username}:{password}@{hostname}:{port}/"
        cell2 = "cell2" if self.layout.plain else "/{path}-cell2?{query}"
        mappings = {
            "cell0": ("none:///", template + "nova_cell0?{query}"),
            "cell1": (self.layout.transport_url("cell1", query=False), self.layout.database_url("nova_cell1")),
            "cell2": (template + cell2, template + "nova_cell2?{query}"),
        }
        for cell, (transport, database) in mappings.items():
            name = self.layout.cell_name(cell)
            stored = f"'{name}'" if name else "NULL"
            stores.query(
                self.layout,
                "INSERT INTO cell_mappings (created_at, uuid, name, transport_url, database_connection, disabled) "
                f"SELECT UTC_TIMESTAMP(), '{CELL_UUIDS[cell]}', {stored}, '{transport}', "
                f"'{database}', 0 FROM DUAL "
                f"WHERE NOT EXISTS (SELECT 1 FROM cell_mappings WHERE uuid = '{CELL_UUIDS[cell]}')",
                "nova_api",
            )

    def map_hosts(self):
        """Tell the API level in which cell each compute host is (what `nova-manage cell_v2 discover_hosts` does)."""
        for cell in CELLS:
            hosts = CELLS[cell] + (KVM_CELLS[cell] if self.kvm else ())
            names = ", ".join(f"'{host}'" for host in hosts)
            deadline = time.monotonic() + PATIENCE
            while True:
                rows = stores.query(
                    self.layout,
                    f"SELECT host FROM compute_nodes WHERE deleted = 0 AND host IN ({names})",
                    f"nova_{cell}",
                )
                if len(rows) == len(hosts):
                    break
                if time.monotonic() > deadline:
                    raise LabError(f"{cell} has compute nodes for {sorted(row[0] for row in rows)} only")
                time.sleep(0.3)
            stores.query(
                self.layout,
                "INSERT INTO nova_api.host_mappings (created_at, cell_id, host) "
                "SELECT UTC_TIMESTAMP(), c.id, n.host FROM nova_api.cell_mappings c "
                f"JOIN nova_{cell}.compute_nodes n ON n.deleted = 0 "
                f"WHERE c.uuid = '{CELL_UUIDS[cell]}' "
                "AND n.host NOT IN (SELECT host FROM nova_api.host_mappings);"
                f"UPDATE nova_{cell}.compute_nodes SET mapped = 1 WHERE mapped = 0;",
            )

    def python(self, script, *arguments):
        """Run one of the scripts in `inside` in the lab's environment."""
        done = subprocess.run(
            [str(self.layout.python), "-W", "ignore", str(services.INSIDE / script), *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                **processes.environment(self.layout),
                "OS_CLIENT_CONFIG_FILE": str(self.layout.home / "clouds.yaml"),
            },
            check=False,
        )
        if done.returncode:
            raise LabError(f"{script} {arguments[0]} failed:\n" + "\n".join(done.stdout.splitlines()[-25:]))

    def furnish(self, *parts):
        """Users, image, network, flavors: once."""
        marker = self.layout.state / "furnished" / "-".join(parts)
        if marker.exists():
            return
        settings = {
            "password": PASSWORD,
            "region": REGION,
            "urls": {name: self.layout.url(name) for name in ("placement", "glance", "cinder", "neutron", "nova")},
            "cells": CELLS,
        }
        self.python("bootstrap.py", *parts, json.dumps(settings))
        marker.parent.mkdir(exist_ok=True)
        marker.touch()

    def steps(self):
        """What has to be done, and what each step waits for."""
        etc = self.layout.etc
        nova = [service.name for service in self.services if service.group == "nova"]
        neutron = ("neutron-api", "neutron-rpc", "network-agent", *(("network-agent-kvm",) if self.kvm else ()))
        schemas = {
            "keystone": (etc / "keystone" / "keystone.conf",),
            "neutron": (etc / "neutron" / "neutron.conf",),
            "nova": self.layout.nova_conf_arguments,
            "cinder": (etc / "cinder" / "cinder.conf",),
            "glance": (etc / "glance" / "glance-api.conf",),
            "placement": (etc / "placement" / "placement.conf",),
        }
        steps = {
            "Debian packages": ((), self.packages),
            "OpenStack packages": ((), self.environment),
            "certificates": (("Debian packages",), lambda: certificates.make(self.layout)),
            "MariaDB": (("certificates",), self.mariadb),
            "RabbitMQ": (("certificates",), self.rabbitmq),
            "schemas kept from before": (("MariaDB", "OpenStack packages"), self.from_cache),
        }
        for project, arguments in schemas.items():
            steps[f"schema of {project}"] = (("schemas kept from before",), self.schema(project, *arguments))
        steps["keep the schemas"] = (tuple(f"schema of {project}" for project in schemas), self.keep_schemas)
        kept = "keep the schemas"
        steps |= {
            "cells": ((kept,), self.cells),
            "cellmove's database user": ((kept,), self.operator),
            "keystone": ((kept,), lambda: self.start("keystone")),
            "users and catalog": (("keystone",), lambda: (self.ask("keystone"), self.furnish("identity"))),
            "placement": ((kept,), lambda: self.start("placement")),
            "glance": ((kept,), lambda: self.start("glance")),
            # Forked from one process, which takes its time to import neutron; but the agents need not be waited for yet.
            "neutron": ((kept, "RabbitMQ"), lambda: self.start(*neutron, awaited=("neutron-api",))),
            "neutron's agents": (("neutron",), lambda: self.start(*neutron)),
            "cinder-api": ((kept, "RabbitMQ"), lambda: self.start("cinder-api")),
            "cinder": (("cinder-api",), lambda: self.start("cinder-scheduler", "cinder-volume")),
            "nova": (
                ("cells", "RabbitMQ", "placement answers", *(kvm_up.before_nova() if self.kvm else ())),
                lambda: self.start(*nova),
            ),
            "hosts in cells": (("nova",), self.map_hosts),
            "image": (("glance answers",), lambda: self.furnish("image")),
            "network": (("neutron answers",), lambda: self.furnish("network")),
            "flavors and aggregates": (
                ("nova answers", "hosts in cells"),
                lambda: self.furnish("flavors", "aggregates"),
            ),
        }
        asked = {"placement": "placement", "glance": "glance", "cinder-api": "cinder-api", "neutron": "neutron-api",
                 "nova": "nova-api"}  # fmt: skip
        for step, name in asked.items():
            steps[f"{step.removesuffix('-api')} answers"] = (
                ("users and catalog", step),
                lambda name=name: self.ask(name),
            )
        return steps | (kvm_up.steps(self) if self.kvm else {})


def check_ports(layout):
    """Refuse to start beside somebody else's listener: the error of each daemon would be much less clear."""
    if processes.recorded_names(layout):
        return  # ours listen already
    for name in PORT_OFFSETS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, layout.port(name)))
            except OSError as problem:
                raise LabError(
                    f"port {layout.port(name)} ({name}) is taken: {problem.strerror}; choose another "
                    "CELLMOVE_LAB_PORT_BASE"
                ) from None


def kind_of(layout):
    """What `.lab/kind` says of a lab."""
    return PLAIN if layout.plain else DEPLOYED


def up(layout, kvm=False):
    """Bring the lab up, with `kvm` also its hosts with a real hypervisor; returns the exit code."""
    begun = time.monotonic()
    check_kind(layout.home, kind_of(layout))
    layout.home.mkdir(parents=True, exist_ok=True)
    for folder in (layout.etc, layout.state, layout.log, layout.run, layout.cache):
        folder.mkdir(exist_ok=True)
    with exclusive(layout):
        return up_alone(layout, begun, kvm)


@contextlib.contextmanager
def exclusive(layout):
    """One `up` at a time: a second one waits, and then finds everything done."""
    with open(layout.home / "lock", "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def up_alone(layout, begun, kvm):
    """The same, while no other `up` runs."""
    check_ports(layout)
    if kvm:
        layout.kvm_marker.touch()
    (layout.home / "port-base").write_text(f"{layout.port_base}\n")
    (layout.home / "kind").write_text(f"{kind_of(layout)}\n")
    quiet = 0.5  # steps that had nothing to do are not worth a line

    def report(name, seconds):
        if seconds > quiet:
            say(f"{time.monotonic() - begun:6.1f} s  {name} ({seconds:.1f} s)")

    try:
        tasks.run(Up(layout, kvm).steps(), report)
    except tasks.Failed as failed:
        for name, problem in failed.problems.items():
            say(f"lab: {name}: {problem if isinstance(problem, LabError) else repr(problem)}")
        return 1
    say(f"lab is up after {time.monotonic() - begun:.1f} s: source {layout.home / 'env'}")
    say(f"hosts: {', '.join([*HOSTS, *(KVM_HOSTS if kvm else ())])}")
    return 0
