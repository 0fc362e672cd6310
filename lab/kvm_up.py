"""What `lab up` does beyond the ordinary lab for the hosts with a real hypervisor: steps of lab/up.py."""

import functools
import hashlib
import json

from lab import install, kvm_guest, kvm_hosts, services
from lab.layout import KVM_CELLS, KVM_HOSTS, KVM_TRAIT

NAME = "host {}"


def packages(layout):
    """Debian packages: none of their daemons is started by apt."""
    install.debian(layout, install.KVM_PROGRAMS)


def furnish(up):
    """Flavors, aggregates and the guests' images; again whenever the guest or what is furnished has changed."""
    furniture = hashlib.sha256((services.INSIDE / "kvm_bootstrap.py").read_bytes()).hexdigest()[:12]
    marker = up.layout.state / "furnished" / f"kvm-{kvm_guest.fingerprint()}-{furniture}"
    if marker.exists():
        return
    settings = {
        "trait": KVM_TRAIT,
        "cells": KVM_CELLS,
        "files": {kind: str(path) for kind, path in kvm_guest.files(up.layout).items()},
    }
    up.python("kvm_bootstrap.py", json.dumps(settings))
    marker.parent.mkdir(exist_ok=True)
    marker.touch()


def steps(up):
    """The steps that are there only with KVM=1, and what each waits for."""
    layout = up.layout
    names = tuple(NAME.format(host) for host in KVM_HOSTS)
    ready = ("packages for real hypervisors", "OpenStack packages")
    found = {
        "packages for real hypervisors": (("Debian packages",), lambda: packages(layout)),
        "libvirt-python": (ready, lambda: install.libvirt_python(layout)),
        "keys of real hosts": (ready, lambda: kvm_hosts.write(layout)),
        "guest": (ready[:1], lambda: kvm_guest.make(layout)),
    }
    for name, host in zip(names, KVM_HOSTS, strict=True):
        found[name] = (("keys of real hosts",), functools.partial(kvm_hosts.start, layout, host))
    found["flavors and images for real guests"] = (
        ("flavors and aggregates", "glance answers", "guest"),
        lambda: furnish(up),
    )
    return found


def before_nova():
    """The steps after which a nova-compute with the libvirt driver can start."""
    return (*(NAME.format(host) for host in KVM_HOSTS), "libvirt-python")
