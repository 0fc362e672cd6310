"""Runs inside the lab's environment: import a project once and fork one daemon for each service.

Reads a plan (JSON, see lab/services.py) from standard input, writes {name: pid} as its last line, and ends.

    starter.py SOCKET PLAN    imports what PLAN needs and stays: it takes plans of the same project at SOCKET,
                              one a connection and a line, and answers each with {name: pid}

Tests stop and start nova's daemons often, and the import takes longer than the start.
"""

import gc
import importlib
import json
import os
import signal
import socket
import sys


def become_daemon(service):
    """The child's first steps: a session, an environment and a log of its own."""
    os.setsid()
    import setproctitle  # nova and neutron bring it along

    setproctitle.setproctitle(f"lab {service['name']}")
    os.environ.update(service["variables"])
    log = os.open(service["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(nothing)
    os.close(log)


def enter(pid):
    """Become a process of a host that has mounts and a name of its own (Python has no setns before 3.12)."""
    import ctypes

    system = ctypes.CDLL(None, use_errno=True)
    folder = os.getcwd()
    for kind in ("uts", "mnt"):
        handle = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
        if system.setns(handle, 0):
            raise OSError(ctypes.get_errno(), f"cannot enter the {kind} namespace of {pid}")
        os.close(handle)
    os.chdir(folder)  # entering mounts leads to their root


def run(service):
    """Be the service, until it ends."""
    kind, _, target = service["entry"].partition(":")
    sys.argv = [service["name"], *service["arguments"]]
    if kind == "wsgi":
        import serve

        serve.serve(target, service["address"], service["port"], service["certificate"])
        return
    module, _, function = target.partition(":")
    if module.startswith("nova.cmd."):
        report_at_once()
    getattr(importlib.import_module(module), function)()


def report_at_once():
    """Let a nova service say that it is up when it is, not five seconds later: tests stop and start them often."""
    from nova.servicegroup import api

    api.INITIAL_REPORTING_DELAY = 0


def load(plan):
    """Import what all services of the plan need."""
    sys.path[:0] = plan["paths"]
    for module in plan["preload"]:
        # nova chooses its kind of threads in its entry modules, so these come first, as in its own commands.
        importlib.import_module(module)
    if "nova.cmd.compute" in plan["preload"]:
        # nova takes drivers only from the package nova.virt: the lab's folder becomes a part of it.
        import nova.virt

        nova.virt.__path__.append(plan["virt"])
    # What is imported stays: the collector need not look at it again, nor so often (a tenth of neutron's time).
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def fork(service, opened=()):
    """Fork one daemon, which closes what this process alone has opened; its pid."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for each in opened:
            each.close()
        become_daemon(service)
        if service["machine"]:
            enter(service["machine"])
        run(service)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
        if not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def fork_all(plan, opened=()):
    """Fork the daemons of a plan; their pids by name, as JSON."""
    return json.dumps({service["name"]: fork(service, opened) for service in plan["services"]})


def serve_plans(path):
    """Take plans from a socket until this process is ended; the socket appears when all is ready."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the daemons
    listener = socket.socket(socket.AF_UNIX)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)  # an address has room for a hundred characters only
    listener.bind(f"/proc/self/fd/{folder}/starter.part")
    os.close(folder)
    listener.listen(16)
    os.rename(os.path.join(os.path.dirname(path), "starter.part"), path)
    while True:
        connection, _address = listener.accept()
        with connection, connection.makefile("rw") as stream:
            stream.write(fork_all(json.loads(stream.readline()), (listener, connection, stream)) + "\n")


def main():
    """Fork what one plan says; with a socket and a first plan as arguments, what each of many plans says."""
    if sys.argv[1:]:
        load(json.loads(sys.argv[2]))
        serve_plans(sys.argv[1])
    plan = json.load(sys.stdin)
    load(plan)
    print(fork_all(plan))


if __name__ == "__main__":
    main()
