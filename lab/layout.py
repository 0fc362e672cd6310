"""Where everything of the lab is: folders, ports, addresses, names and passwords.  Plain data, nothing runs here."""

import os
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
LOOPBACK = "127.0.0.1"
PASSWORD = "lab-secret"  # everything listens on the loopback only, so one word will do
# cellmove's own at databases and buses: with characters that a URL cannot hold as they are, and some beyond Latin-1.
OPERATOR_PASSWORD = f"{PASSWORD}/:@#?%,+ $&ä€"
REGION = "RegionOne"
# Below the range from which Linux takes the ports of outgoing connections (32768 and up): inside it, one of the lab's
# own thousand connections may sit on a port on which a daemon wants to listen.
DEFAULT_PORT_BASE = 23000

# Distance of each listening port from the base: two labs with bases 100 apart can run side by side.
PORT_OFFSETS = {
    "mariadb": 0,
    "rabbitmq": 1,
    "epmd": 2,
    "erlang": 3,
    "rabbitmq-second": 4,  # the same broker: transport URLs name two
    "keystone": 10,
    "placement": 11,
    "glance": 12,
    "cinder": 13,
    "neutron": 14,
    "nova": 15,
    "sshd": 20,  # of the hosts with a real hypervisor, each on its own address
}

# Each compute host has a loopback address of its own, as a real one would have: nova passes it around
# (migrations.dest_host, volume connectors) and the driver finds the other host's folder by it.
HOSTS = {
    "c1-host1": "127.0.1.1",
    "c1-host2": "127.0.1.2",
    "c2-host1": "127.0.2.1",
    "c2-host2": "127.0.2.2",
}
CELLS = {"cell1": ("c1-host1", "c1-host2"), "cell2": ("c2-host1", "c2-host2")}

# The hosts with a real hypervisor, which only `make lab-up KVM=1` starts.  They stand apart: tests take the others by
# name, and nova puts nothing on these that does not ask for it.
KVM_HOSTS = {"c1-kvm1": "127.0.1.11", "c2-kvm1": "127.0.2.11"}
KVM_CELLS = {"cell1": ("c1-kvm1",), "cell2": ("c2-kvm1",)}
KVM_TRAIT = "CUSTOM_KVM"
CELL_UUIDS = {
    "cell0": "00000000-0000-0000-0000-000000000000",
    "cell1": "11111111-1111-4111-8111-111111111111",
    "cell2": "22222222-2222-4222-8222-222222222222",
}

# database -> its owner.  Every project has its own user, so a service that uses a wrong URL is refused.
DATABASES = {
    "keystone": "keystone",
    "placement": "placement",
    "glance": "glance",
    "cinder": "cinder",
    "neutron": "neutron",
    "nova_api": "nova",
    "nova_cell0": "nova",
    "nova_cell1": "nova",
    "nova_cell2": "nova",
}
# The bus of the API level and those of the cells: label -> virtual host. kolla-ansible names them after cells,
# openstack-ansible begins their names with a slash.
VIRTUAL_HOSTS = {"/": "/nova", "cell1": "cell1", "cell2": "/nova-cell2"}
PLAIN_VIRTUAL_HOSTS = {"/": "/", "cell1": "cell1", "cell2": "cell2"}

# The cell that has no name in nova's database, as kolla-ansible creates its cells.
NAMELESS_CELL = "cell1"


# The kinds of lab: a cloud as kolla-ansible and openstack-ansible deploy it, and the plain one of `make lab-up PLAIN=1`.
DEPLOYED, PLAIN = "deployed", "plain"


class LabError(Exception):
    """Something the person at the keyboard has to know; its text is the whole message."""


def cell_labelled(uuid):
    """The label of the cell with a UUID; None if it is none of the lab's."""
    return next((cell for cell, known in CELL_UUIDS.items() if known == uuid), None)


def cell_of(host):
    """The cell whose compute `host` is."""
    for cell, hosts in CELLS.items():
        if host in hosts or host in KVM_CELLS[cell]:
            return cell
    raise LabError(f"no such compute host: {host} (there are {', '.join([*HOSTS, *KVM_HOSTS])})")


def find_home():
    """The folder that holds the lab: `.lab` of this checkout, or CELLMOVE_LAB_HOME."""
    return Path(os.environ.get("CELLMOVE_LAB_HOME") or REPOSITORY / ".lab").resolve()


def find_port_base(home):
    """The first port: the environment's, or the one that this lab was made with, or the default."""
    recorded = home / "port-base"
    made_with = int(recorded.read_text()) if recorded.exists() else None
    wanted = os.environ.get("CELLMOVE_LAB_PORT_BASE")
    if wanted and made_with and int(wanted) != made_with:
        raise LabError(
            f"this lab was made with CELLMOVE_LAB_PORT_BASE={made_with}, now it is {wanted}: "
            "the old ports stand in its databases, so run `make lab-wipe` (with the old base) first"
        )
    return int(wanted or made_with or DEFAULT_PORT_BASE)


def find_kind(home):
    """Which kind of cloud the lab in a folder is: the recorded one, PLAIN when it is older than the record, else None."""
    recorded = home / "kind"
    if recorded.exists():
        return recorded.read_text().strip()
    return PLAIN if (home / "port-base").exists() else None


def check_kind(home, wanted):
    """Refuse to bring a lab up as the other kind: its databases, certificates and mappings are of the first one.

    :raises LabError: one line that says what to type
    """
    made_as = find_kind(home)
    if made_as and made_as != wanted:
        same = "make lab-up PLAIN=1" if made_as == PLAIN else "make lab-up"
        raise LabError(f"the lab in {home} is {made_as}, not {wanted}: type `{same}`, or `make lab-wipe` first")


@dataclass(frozen=True)
class Layout:
    """One lab: its folder, its ports and its kind.

    A plain lab has no TLS and no quorum queues, and both of its cells have names.
    """

    home: Path
    port_base: int
    plain: bool = False

    def port(self, name):
        """The TCP port of one of PORT_OFFSETS."""
        return self.port_base + PORT_OFFSETS[name]

    def url(self, name):
        """The base URL of an HTTP service."""
        return f"{'http' if self.plain else 'https'}://{LOOPBACK}:{self.port(name)}"

    @property
    def auth_url(self):
        """Keystone's versioned address."""
        return self.url("keystone") + "/v3"

    def database_url(self, database):
        """The SQLAlchemy URL of one database, with its owner's name and password."""
        tls = "" if self.plain else f"&ssl_ca={self.ca}"
        return (
            f"mysql+pymysql://{DATABASES[database]}:{PASSWORD}@{LOOPBACK}:{self.port('mariadb')}/{database}"
            f"?charset=utf8mb4{tls}"
        )

    def transport_url(self, virtual_host="/", query=True):
        """The message bus of the API level (`/`) or of a cell (its label).

        :param query: whether the URL says itself how TLS is spoken, as openstack-ansible's do. Those of kolla-ansible
            leave that to [oslo_messaging_rabbit]
        """
        path = self.virtual_hosts[virtual_host]
        if self.plain:
            path = "" if path == "/" else path
            return f"rabbit://lab:{PASSWORD}@{LOOPBACK}:{self.port('rabbitmq')}/{path}"
        brokers = [f"lab:{PASSWORD}@{LOOPBACK}:{self.port(name)}" for name in ("rabbitmq", "rabbitmq-second")]
        tls = f"?ssl=1&ssl_version=TLSv1_2&ssl_ca_file={self.ca}" if query else ""
        return f"rabbit://{','.join(brokers)}/{path}{tls}"

    @property
    def virtual_hosts(self):
        """label -> virtual host of the broker."""
        return PLAIN_VIRTUAL_HOSTS if self.plain else VIRTUAL_HOSTS

    def cell_name(self, cell):
        """The name that nova's database has of a cell; None for the one without a name."""
        return None if cell == NAMELESS_CELL and not self.plain else cell

    def operator_name(self, cell):
        """What an operator types for a cell: its name, or its UUID if it has none."""
        return self.cell_name(cell) or CELL_UUIDS[cell]

    def display_name(self, cell):
        """What cellmove calls a cell: its name, or the first eight digits of its UUID if it has none."""
        return self.cell_name(cell) or CELL_UUIDS[cell][:8]

    @property
    def certificates(self):
        """The lab's own CA, and the certificate of everything that listens on the loopback."""
        return self.etc / "tls"

    @property
    def ca(self):
        """What a client has to trust."""
        return self.certificates / "ca.pem"

    @property
    def cafile(self):
        """The same, for an option that a plain lab leaves out."""
        return None if self.plain else self.ca

    @property
    def venv(self):
        """The lab's own virtual environment: nova and all the others."""
        return self.home / "venv"

    @property
    def python(self):
        """The interpreter of that environment."""
        return self.venv / "bin" / "python"

    @property
    def cache(self):
        """What a wipe may keep: a dump of the empty schemas."""
        return self.home / "cache"

    @property
    def etc(self):
        """Configuration files, made anew by every `up`."""
        return self.home / "etc"

    @property
    def state(self):
        """Databases, images, guests: everything that a wipe removes."""
        return self.home / "state"

    @property
    def log(self):
        """One log file for each daemon."""
        return self.home / "log"

    @property
    def run(self):
        """One record (pid and its start time) for each daemon."""
        return self.home / "run"

    @property
    def faults(self):
        """`<host>/<virt call>` files that make the driver fail or hang."""
        return self.home / "faults"

    @property
    def nova_conf(self):
        """The configuration of nova's API level, the one with an [api_database]."""
        return self.etc / "nova" / "nova.conf"

    @property
    def nova_conf_folder(self):
        """The folder with the rest of it, which a plain lab has not."""
        return self.etc / "nova" / "nova.conf.d"

    @property
    def nova_conf_paths(self):
        """Both, for those that are told to read them."""
        return [self.nova_conf] if self.plain else [self.nova_conf, self.nova_conf_folder]

    @property
    def nova_conf_arguments(self):
        """Both, as arguments of nova's commands."""
        words = [
            ["--config-dir" if path == self.nova_conf_folder else "--config-file", path]
            for path in self.nova_conf_paths
        ]
        return tuple(word for pair in words for word in pair)

    def host_state(self, host):
        """The state folder of one compute host: its guests and their disks."""
        return self.state / "nova" / host

    @property
    def kvm_marker(self):
        """The file that says that the hosts with a real hypervisor are part of the lab, from `up KVM=1` to `down`."""
        return self.run / "kvm"

    @property
    def kvm(self):
        """Whether they are."""
        return self.kvm_marker.exists()

    @property
    def hosts(self):
        """host -> address of all compute hosts that the lab has just now."""
        return {**HOSTS, **(KVM_HOSTS if self.kvm else {})}

    def machine(self, host):
        """What a host with a real hypervisor has for itself in place of the system's own /run, /etc/libvirt ..."""
        return self.state / "kvm" / host

    @property
    def ssh(self):
        """Keys of those hosts' ssh servers and of their clients; `config` is for `ssh -F`."""
        return self.etc / "ssh"


def load():
    """The layout of the lab of this checkout."""
    home = find_home()
    return Layout(home=home, port_base=find_port_base(home), plain=find_kind(home) == PLAIN)
