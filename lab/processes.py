"""Daemons: start them, know them again, end them.  A pid alone is never trusted."""

import json
import os
import signal
import subprocess
import time

from lab.layout import LabError

HOME_VARIABLE = "CELLMOVE_LAB_HOME"

# How long a process may be without an environment until it counts as one that has none.
EXECUTING = 2.0


def start_time(pid):
    """When a process was started, in clock ticks since boot; None if it is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    # fields[0] is field 3 of proc(5): the state.  A zombie only waits for a parent that never looks.
    return None if fields[0] in "ZX" else int(fields[19])


def is_ours(pid, home):
    """Whether a process was started by the lab in `home`: its environment says so and cannot be faked by a reused pid.

    A process that is just executing another program has no environment for a moment (measured: up to 70 ms on two busy
    cores).  That is no answer: it is asked again until it has one, or EXECUTING is over.
    """
    deadline = time.monotonic() + EXECUTING
    while True:
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                variables = file.read()
        except OSError:
            return False
        if variables or start_time(pid) is None or time.monotonic() > deadline:
            return f"{HOME_VARIABLE}={home}".encode() in variables.split(b"\0")
        time.sleep(0.01)


def record(layout, name, pid, renames=False):
    """Remember that `name` runs as `pid` (written by rename: a reader never sees half a record).

    One that `renames` itself loses the environment by which it would be known: its start time has to do.
    """
    path = layout.run / f"{name}.json"
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"pid": pid, "started": start_time(pid), "renames": renames}))
    part.rename(path)


def recorded(layout, name):
    """What `record` wrote: (pid, start time, whether it renames itself), or (None, None, False)."""
    try:
        known = json.loads((layout.run / f"{name}.json").read_text())
    except (OSError, ValueError):
        return None, None, False
    return known["pid"], known["started"], known.get("renames", False)


def running_pid(layout, name):
    """The pid of a daemon that runs, else None.  Same pid, same start time, and the lab's environment."""
    pid, started, renames = recorded(layout, name)
    if pid is None or started is None or start_time(pid) != started:
        return None
    return pid if renames or is_ours(pid, layout.home) else None


def recorded_names(layout):
    """All daemons that have a record, running or not."""
    return sorted(path.stem for path in layout.run.glob("*.json"))


def environment(layout, extra=None):
    """The environment of every daemon: nothing of the caller's that could steer a service, and the mark of the lab."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TZ", "LD_LIBRARY_PATH") if name in os.environ}
    variables = {
        **kept,
        "HOME": layout.state,
        "PYTHONWARNINGS": "ignore",
        "PYTHONUNBUFFERED": "1",
        # Some of them rename themselves, which would overwrite the environment by which the lab knows its own.
        "SPT_NOENV": "1",
        HOME_VARIABLE: layout.home,
        **(extra or {}),
    }
    return {name: str(value) for name, value in variables.items()}


def start_daemon(layout, name, command, extra=None, renames=False):
    """Start one command in a session of its own, its words going to its log file; `renames`: see `record`."""
    layout.run.mkdir(parents=True, exist_ok=True)
    layout.log.mkdir(parents=True, exist_ok=True)
    with open(layout.log / f"{name}.log", "ab") as log:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment(layout, extra),
            cwd=layout.home,
            start_new_session=True,
        )
    record(layout, name, process.pid, renames)


def members(layout, session):
    """The processes of one daemon's session that are ours: the master and whatever it forked."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            if os.getsid(int(entry)) != session:
                continue
        except OSError:
            continue
        if start_time(entry) is not None and is_ours(entry, layout.home):
            found.append(int(entry))
    return found


def send(pids, number):
    """Signal processes; one that has just gone is no error."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def end(layout, names, patience=8.0, number=signal.SIGTERM):
    """End daemons and everything in their sessions: ask, wait a little, then kill.  Returns the names that were running.

    A session outlives a master that was killed, so its workers are found by the session, not by the master.
    """
    names = list(names)
    masters = {name: pid for name in names if (pid := running_pid(layout, name))}
    sessions = [pid for name in names if (pid := recorded(layout, name)[0])]
    left = {pid for session in sessions for pid in members(layout, session)} | set(masters.values())
    # Masters first: a master that still runs would start a killed worker again.
    send(masters.values(), number)
    deadline = time.monotonic() + patience
    orphans = number == signal.SIGKILL or not masters
    while left and not orphans and time.monotonic() < deadline:
        left = {pid for pid in left if start_time(pid) is not None}
        time.sleep(0.05)
    send(left, signal.SIGKILL)
    while left:
        left = {pid for pid in left if start_time(pid) is not None}
        time.sleep(0.02)
    for name in names:
        (layout.run / f"{name}.json").unlink(missing_ok=True)
    return sorted(masters)


def call(*command, cwd=None):
    """Run a command to its end; its output, or an error that shows it."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, cwd=cwd, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(words)[:200]} failed:\n{(done.stdout + done.stderr).strip()[-1500:]}")
    return done.stdout


def log_tail(layout, name, lines=25):
    """The end of a daemon's log, for the message that says it did not answer."""
    try:
        text = (layout.log / f"{name}.log").read_text(errors="replace")
    except OSError:
        return "(no log)"
    return "\n".join(text.splitlines()[-lines:]) or "(its log is empty)"
