"""python3 -m lab up [--kvm] [--plain] | status | down | wipe [--all] | install-browser | install-ssh | install-promtool"""

import argparse
import dataclasses
import shutil
import signal
import sys

from lab import kvm_hosts, processes, services
from lab.layout import LabError, load

STORES = ("rabbitmq", "epmd", "mariadb")


def down(layout, number=signal.SIGTERM):
    """End everything that this lab started: OpenStack first, what it talks to last."""
    names = processes.recorded_names(layout)
    ended = processes.end(layout, [name for name in names if name not in STORES], number=number)
    kvm_hosts.end(layout)
    ended += processes.end(layout, [name for name in names if name in STORES], number=number)
    services.forget_queue_counters(layout)
    print(f"lab: ended {len(ended)} daemons" if ended else "lab: nothing was running", flush=True)
    return 0


def wipe(layout, everything):
    """End it and remove its databases, guests, images and logs; with `everything` also what is installed in .lab."""
    down(layout, signal.SIGKILL)
    names = ["etc", "state", "log", "run", "faults", "env", "clouds.yaml", "port-base", "kind"]
    for name in names + (["venv", "boot", "cache"] if everything else []):
        path = layout.home / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return 0


def install_browser(layout):
    """Install what the sandbox's tests look at pages with, unless it is there; the lab itself has no use for it."""
    from lab import install

    if install.browser(layout):
        print("lab: chromium installed", flush=True)
    return 0


def install_ssh(layout):
    """Install what the tests move disks with, unless it is there; the lab itself has no use for it."""
    from lab import install

    if install.ssh_server(layout):
        print("lab: openssh-server and qemu-utils installed", flush=True)
    return 0


def install_promtool(layout):
    """Install what the tests check the figures for Prometheus with, unless it is there; the lab itself has no use for it."""
    from lab import install

    if install.promtool(layout):
        print("lab: prometheus installed", flush=True)
    return 0


def status(layout):
    """One line for each daemon; exit code 0 only if all answer."""
    from lab import status as module

    return module.show(layout)


COMMANDS = {
    "status": status,
    "down": down,
    "install-browser": install_browser,
    "install-ssh": install_ssh,
    "install-promtool": install_promtool,
}


def main(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(prog="python3 -m lab", description=__doc__)
    parser.add_argument("command", choices=("up", "wipe", *COMMANDS))
    parser.add_argument("--kvm", action="store_true", help="up: also the hosts with a real hypervisor")
    parser.add_argument("--plain", action="store_true", help="up: without TLS and quorum queues, both cells named")
    parser.add_argument("--all", action="store_true", help="wipe: also the installed packages and the cache")
    chosen = parser.parse_args(arguments)
    try:
        layout = load()
        if chosen.command == "up":
            from lab import up

            return up.up(dataclasses.replace(layout, plain=chosen.plain), chosen.kvm)
        if chosen.command == "wipe":
            return wipe(layout, chosen.all)
        return COMMANDS[chosen.command](layout)
    except LabError as problem:
        print(f"lab: {problem}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
