"""What the lab needs from outside: Debian packages through apt, and OpenStack from PyPI into the lab's own environment."""

import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig

from lab.layout import LabError

DEBIAN_PROGRAMS = {
    "mariadb-server": ("/usr/sbin/mariadbd", "/usr/bin/mariadb-install-db"),
    "mariadb-client": ("/usr/bin/mariadb", "/usr/bin/mariadb-dump"),
    "rabbitmq-server": ("/usr/lib/rabbitmq/bin/rabbitmq-server", "/usr/bin/epmd"),
    "openssl": ("/usr/bin/openssl",),
}

# What the hosts with a real hypervisor need: `up KVM=1`.
KVM_PROGRAMS = {
    "libvirt-daemon-system": ("/usr/sbin/libvirtd", "/etc/libvirt", "/var/lib/libvirt", "/var/cache/libvirt"),
    "libvirt-clients": ("/usr/bin/virsh",),
    "qemu-system-x86": ("/usr/bin/qemu-system-x86_64",),
    "qemu-utils": ("/usr/bin/qemu-img",),
    "genisoimage": ("/usr/bin/genisoimage",),
    "openvswitch-switch": ("/usr/sbin/ovs-vswitchd", "/usr/sbin/ovsdb-server", "/usr/bin/ovs-vsctl"),
    "openssh-server": ("/usr/sbin/sshd",),
    "openssh-client": ("/usr/bin/ssh", "/usr/bin/ssh-keygen"),
    "iproute2": ("/usr/sbin/ip",),
    "xfsprogs": ("/usr/sbin/mkfs.xfs",),
    "e2fsprogs": ("/usr/sbin/mkfs.ext4", "/usr/sbin/resize2fs"),
    # The one without -static is at the same place.
    "busybox-static": ("/bin/busybox", "/var/lib/dpkg/info/busybox-static.list"),
    # libvirt-python is only to be had as source.
    "libvirt-dev": ("/usr/include/libvirt/libvirt.h",),
    "gcc": ("/usr/bin/gcc",),
    "libc6-dev": ("/usr/include/stdio.h",),
    "pkg-config": ("/usr/bin/pkg-config",),
    "python3-dev": (os.path.join(sysconfig.get_path("include"), "Python.h"),),
}

# What tests/sandbox looks at pages with; any of the programs will do.
BROWSER = ("chromium", "chromium-browser", "google-chrome")

# What tests/ssh moves disks with: the package of each program.
SSH = {"openssh-server": "sshd", "openssh-client": "ssh", "qemu-utils": "qemu-img"}

# nova.virt.fake imports fixtures, everything that is WSGI is served by cheroot; the client is for people.
PYTHON_PACKAGES = (
    "nova",
    "keystone",
    "openstack-placement",
    "glance",
    "neutron",
    "cinder",
    "PyMySQL",
    "cheroot",
    "fixtures",
    "python-openstackclient",
    "osc-placement",
)


def missing_packages(wanted_programs):
    """The Debian packages whose programs are not there."""
    return [
        package
        for package, programs in wanted_programs.items()
        if not all(os.path.exists(program) for program in programs)
    ]


def run(layout, command, what, environment=None):
    """Run one installation command; on failure show the end of what it said."""
    log = layout.log / "install.log"
    with open(log, "ab") as file:
        done = subprocess.run(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={**os.environ, **(environment or {})},
            check=False,
        )
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
        raise LabError(f"{what} failed (exit {done.returncode}); the end of {log}:\n{tail}")


def debian(layout, programs=None):
    """Install MariaDB and RabbitMQ where they are missing, without letting them start as system services."""
    programs = programs or DEBIAN_PROGRAMS
    missing = missing_packages(programs)
    if importlib.util.find_spec("ensurepip") is None:
        missing.append("python3-venv")
    if not missing:
        return False
    packages(layout, missing)
    still = missing_packages(programs)
    if still:
        raise LabError(f"installed, yet their programs are not where they should be: {' '.join(still)}")
    return True


def browser(layout):
    """Install chromium unless there is a browser; no part of the lab itself."""
    if any(map(shutil.which, BROWSER)):
        return False
    if shutil.which("apt-get") is None:
        raise LabError(f"install a browser, one of these: {', '.join(BROWSER)}")
    packages(layout, ["chromium"])
    return True


def ssh_server(layout):
    """Install sshd and qemu-img unless they are there; no part of the lab itself. The daemon is not started."""
    places = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin"))
    missing = [package for package, program in SSH.items() if shutil.which(program, path=places) is None]
    if missing and shutil.which("apt-get") is None:
        raise LabError(f"install these: {', '.join(SSH.values())}")
    if missing:
        packages(layout, missing)
    return bool(missing)


def promtool(layout):
    """Install promtool unless it is there; no part of the lab itself. Prometheus is not started."""
    if shutil.which("promtool"):
        return False
    if shutil.which("apt-get") is None:
        raise LabError("install promtool, which comes with Prometheus")
    packages(layout, ["prometheus"])
    return True


@functools.cache
def update_lists(layout):
    """Ask Debian's servers which packages there are, once a run: an old list names some that are no longer there."""
    run(layout, ["apt-get", "update", "-q"], "apt-get update")


def packages(layout, names):
    """Install Debian packages; no service of theirs is started."""
    if os.geteuid() != 0:
        raise LabError(f"install these packages, or run as root: {' '.join(names)}")
    layout.log.mkdir(parents=True, exist_ok=True)
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    policy = "/usr/sbin/policy-rc.d"
    made_policy = not os.path.exists(policy)
    if made_policy:
        with open(policy, "w", encoding="ascii") as file:
            file.write("#!/bin/sh\nexit 101\n")
        os.chmod(policy, 0o755)
    try:
        update_lists(layout)
        options = ["-q", "-y", "--no-install-recommends", "-o", "Dpkg::Options::=--force-unsafe-io"]
        run(layout, ["apt-get", "install", *options, *names], "apt-get install", quiet)
    finally:
        if made_policy:
            os.unlink(policy)


def wanted():
    """What the environment is made of; another list or another interpreter makes it anew."""
    return f"{sys.version}\n" + "\n".join(PYTHON_PACKAGES) + "\n"


def environment_is_ready(layout):
    """Whether the environment was made completely, from this very list."""
    marker = layout.venv / "lab-packages.txt"
    return marker.exists() and marker.read_text() == wanted() and layout.python.exists()


def python(layout):
    """Make the lab's environment with uv, which itself comes from PyPI into a small one beside it."""
    if environment_is_ready(layout):
        return False
    boot = layout.home / "boot"
    uv = boot / "bin" / "uv"
    if not uv.exists():
        shutil.rmtree(boot, ignore_errors=True)
        run(layout, [sys.executable, "-m", "venv", boot], "making an environment for uv")
        run(layout, [boot / "bin" / "python", "-m", "pip", "install", "-q", "uv"], "installing uv")
    shutil.rmtree(layout.venv, ignore_errors=True)
    run(layout, [uv, "venv", "-q", "--python", sys.executable, layout.venv], "making the lab's environment")
    install = [uv, "pip", "install", "-q", "--python", layout.python]
    run(layout, [*install, *PYTHON_PACKAGES], "installing OpenStack")
    compile_used(layout)
    (layout.venv / "lab-packages.txt").write_text(wanted())
    return True


def libvirt_python(layout):
    """Add nova's way to libvirt to the environment; only as source to be had, it is built against Debian's libvirt."""
    if any(layout.venv.glob("lib/python3*/site-packages/libvirt_python-*.dist-info")):
        return False
    uv = layout.home / "boot" / "bin" / "uv"
    run(layout, [uv, "pip", "install", "-q", "--python", layout.python, "libvirt-python"], "building libvirt-python")
    return True


# Only what the lab runs is compiled beforehand: the rest of the environment (tests, drivers for hardware) is larger.
COMPILED = (
    "nova", "keystone", "placement", "glance", "neutron", "cinder", "sqlalchemy", "oslo*", "keystone*", "alembic",
    "eventlet", "kombu", "amqp", "webob", "neutron_lib", "os_*", "openstack", "stevedore", "dogpile", "pymysql",
    "cryptography", "glance_store", "glanceclient", "cinderclient", "cheroot",
)  # fmt: skip


def compile_used(layout):
    """Compile with all cores: otherwise each of the daemons that start at once would compile the same modules."""
    folder = next(layout.venv.glob("lib/python3*/site-packages"))
    folders = sorted({path for pattern in COMPILED for path in folder.glob(pattern) if path.is_dir()})
    command = [layout.python, "-m", "compileall", "-q", "-j", str(os.cpu_count() or 1), "-x", "/tests/", *folders]
    run(layout, command, "compiling")


def fingerprint(layout):
    """A short name for exactly these versions: the key of the schema cache."""
    folder = next(layout.venv.glob("lib/python3*/site-packages"))
    versions = sorted(
        path.name
        for pattern in ("nova-*", "keystone-*", "openstack_placement-*", "glance-*", "neutron-*", "cinder-*")
        for path in folder.glob(pattern + ".dist-info")
    )
    return hashlib.sha256("\n".join(versions).encode()).hexdigest()[:12]
