"""`lab status`: one line for each daemon, from what it answers now."""

import functools

from lab import kvm_hosts, processes, services
from lab.layout import KVM_HOSTS

HEARTBEAT_SECONDS = 20


def memory(layout, pid):
    """MiB of resident memory of a daemon and all that belongs to its session."""
    pages = 0
    for member in processes.members(layout, pid):
        try:
            with open(f"/proc/{member}/statm", encoding="ascii") as file:
                pages += int(file.read().split()[1])
        except OSError:
            pass
    return pages * 4 // 1024


def show(layout):
    """Print it; 0 if everything runs and answers, else 1."""
    checks = {
        "mariadb": lambda: services.mariadb_answers(layout),
        "epmd": lambda: None,
        "rabbitmq": lambda: services.amqp_answers(layout),
    }
    try:
        ages = services.heartbeats(layout)
    except services.LabError:
        ages = {}
    for service in services.all_services(layout):
        checks[service.name] = check(layout, service, ages)
    if layout.kvm:
        for host in KVM_HOSTS:
            for part in kvm_hosts.PARTS:
                question = functools.partial(kvm_hosts.problem, layout, part, host)
                checks[kvm_hosts.daemon(part, host)] = question
    wrong = 0
    for name, ask in checks.items():
        pid = processes.running_pid(layout, name)
        problem = ask() if pid else "not running"
        wrong += problem is not None
        size = f"{memory(layout, pid):5d} MiB  pid {pid}" if pid else ""
        print(f"{name:24s} {'answers' if problem is None else problem:30s} {size}".rstrip(), flush=True)
    faults = sorted(path.relative_to(layout.faults) for path in layout.faults.glob("*/*"))
    for path in faults:
        print(f"fault: {path}: {(layout.faults / path).read_text().strip()}")
    return 1 if wrong else 0


def check(layout, service, ages):
    """How to ask one service: the APIs for real, the others by their heartbeats."""
    if service.port:
        return lambda: services.really_answers(layout, service)
    return lambda: services.problem(layout, service, HEARTBEAT_SECONDS, ages)
