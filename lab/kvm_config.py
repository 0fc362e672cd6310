"""The configuration of the hosts with a real hypervisor: nova-compute's second file, libvirt's, sshd's, as text."""

from lab.config import sections
from lab.layout import HOSTS, KVM_CELLS, KVM_HOSTS, KVM_TRAIT, LOOPBACK

CELL_OF = {host: cell for cell, hosts in KVM_CELLS.items() for host in hosts}

# No security driver, no cgroups, no namespaces: the lab is root on a machine that may itself be a container.
QEMU = """user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
seccomp_sandbox = 0
stdio_handler = "file"
"""

# A trait that only this host has, declared by nova-compute itself; lab/inside/kvm_bootstrap.py says what it is good for.
PROVIDER = f"""meta:
  schema_version: '1.0'
providers:
  - identification:
      uuid: $COMPUTE_NODE
    traits:
      additional:
        - {KVM_TRAIT}
"""


def compute_folder(layout, host):
    """Where the configuration of a host's nova-compute is; a folder of its own, see lab/config.py."""
    return layout.etc / "nova" / host


def compute_files(layout, host):
    """The configuration files of one nova-compute, in order."""
    return [layout.etc / "nova" / f"nova-{CELL_OF[host]}.conf", compute_folder(layout, host) / "nova-compute.conf"]


def nova_host(layout, host):
    """The second file of a nova-compute with the libvirt driver: QEMU without help from the processor."""
    folder = layout.host_state(host)
    files = " ".join(f"--config-file {path}" for path in compute_files(layout, host))
    helper = {"helper_command": f"{layout.venv / 'bin' / 'privsep-helper'} {files}"}
    return sections(
        (
            "DEFAULT",
            {
                "host": host,
                "my_ip": KVM_HOSTS[host],
                "state_path": folder,
                "compute_driver": "libvirt.LibvirtDriver",
                "vif_plugging_is_fatal": "true",
                "vif_plugging_timeout": 60,
                "force_raw_images": "false",
                "default_ephemeral_format": "ext4",
                # The guests end within two seconds of the power button; one that does not know it has this long.
                "shutdown_timeout": 15,
                "reserved_host_memory_mb": 0,
            },
        ),
        (
            "libvirt",
            {
                "virt_type": "qemu",
                "cpu_mode": "custom",
                "cpu_models": "qemu64",
                "images_type": "qcow2",
                "connection_uri": "qemu:///system",
                "wait_soft_reboot_seconds": 5,
            },
        ),
        ("compute", {"provider_config_location": compute_folder(layout, host) / "provider"}),
        ("oslo_concurrency", {"lock_path": folder / "lock"}),
        ("database", {"connection": ""}),
        ("os_vif_ovs", {"ovsdb_connection": "unix:/run/openvswitch/db.sock"}),
        # Root already: no sudo, no rootwrap.
        *((section, helper) for section in ("privsep", "nova_sys_admin", "privsep_osbrick", "vif_plug_ovs_privileged")),
    )


def libvirtd(uuid):
    """libvirtd.conf: no polkit; and an identity of its own, for this machine's is the same on every host."""
    return (
        'auth_unix_ro = "none"\nauth_unix_rw = "none"\nunix_sock_group = "root"\nunix_sock_rw_perms = "0700"\n'
        f'host_uuid = "{uuid}"\nlog_level = 3\nlog_outputs = "3:stderr"\n'
    )


def hosts_file():
    """/etc/hosts of these hosts."""
    names = {**HOSTS, **KVM_HOSTS}
    return f"{LOOPBACK} localhost\n" + "".join(f"{address} {host}\n" for host, address in names.items())


def sshd(layout, host):
    """sshd_config: keys only, on the host's own address."""
    lines = {
        "ListenAddress": KVM_HOSTS[host],
        "Port": layout.port("sshd"),
        "HostKey": layout.ssh / host / "host_key",
        "AuthorizedKeysFile": layout.ssh / "client_key.pub",
        "AuthenticationMethods": "publickey",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "PermitRootLogin": "prohibit-password",
        "UsePAM": "no",
        # The lab's folder may be below one that everybody can write to, such as /tmp.
        "StrictModes": "no",
        "UseDNS": "no",
        "PidFile": "none",
        # Tests open many at a time.
        "MaxStartups": "100",
        "MaxSessions": "100",
        "Subsystem": "sftp internal-sftp",
    }
    return "".join(f"{name} {value}\n" for name, value in lines.items())


def ssh(layout):
    """ssh_config: the hosts by name, their keys known."""
    lines = []
    for host, address in KVM_HOSTS.items():
        lines += [f"Host {host}", f"  HostName {address}"]
    lines += [
        "Host *",
        f"  Port {layout.port('sshd')}",
        "  User root",
        f"  IdentityFile {layout.ssh / 'client_key'}",
        "  IdentitiesOnly yes",
        f"  UserKnownHostsFile {layout.ssh / 'known_hosts'}",
        "  GlobalKnownHostsFile /dev/null",
        "  StrictHostKeyChecking yes",
        "  BatchMode yes",
    ]
    return "\n".join(lines) + "\n"


def known_host(layout, host, public_key):
    """One line of known_hosts."""
    kind, key = public_key.split()[:2]
    return f"[{KVM_HOSTS[host]}]:{layout.port('sshd')} {kind} {key}\n"


def files(layout):
    """path -> text of what an `up` with these hosts writes, but for the keys."""
    texts = {layout.ssh / "config": ssh(layout)}
    for host in KVM_HOSTS:
        folder = compute_folder(layout, host)
        texts[folder / "nova-compute.conf"] = nova_host(layout, host)
        texts[folder / "provider" / "provider.yaml"] = PROVIDER
        texts[layout.ssh / host / "sshd_config"] = sshd(layout, host)
    return texts
