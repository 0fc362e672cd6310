"""The show: two servers moved between the cells of the lab, with every command and what it prints.

Run by `make lab-demo` in cellmove's own virtual environment; exits with 0 only if the first server ends
in cell2, ACTIVE, and the second is back in cell1 as it was.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from lab import cloud, oracle

NAMES = ("demo-1", "demo-2")
PROGRAM = Path(sys.executable).with_name("cellmove")


def environment():
    """This process's environment with what `.lab/env` sets, and a journal of the demo's own."""
    home = cloud.layout().home
    script = f". {shlex.quote(str(home / 'env'))}; env -0"
    answer = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    given = dict(line.split("=", 1) for line in answer.stdout.split("\0") if "=" in line)
    return {**given, "CELLMOVE_JOURNAL": str(home / "demo" / "journal.db")}


def say(words):
    """A line of the show's own."""
    print(f"\n# {words}", flush=True)


def run(*words):
    """Show a command, run it, and stop the show if it fails."""
    print(f"\n$ cellmove {shlex.join(words)}", flush=True)
    code = subprocess.run([str(PROGRAM), *words], check=False).returncode
    if code:
        sys.exit(f"that ended with exit code {code}")


def listing(*server_ids):
    """What nova itself says of the servers."""
    print(f"\n  {'NAME':10}{'STATUS':16}{'HOST':12}{'CELL':8}{'FLAVOR':10}")
    for server_id in server_ids:
        server = cloud.show(server_id)
        cell = oracle.snapshot(server_id)["api"]["mapping"]["cell"]
        host, flavor = server["OS-EXT-SRV-ATTR:host"], server["flavor"]["original_name"]
        print(f"  {server['name']:10}{server['status']:16}{host:12}{cell:8}{flavor:10}", flush=True)


def expect(server_id, **wanted):
    """Stop the show when the oracle sees anything wrong."""
    problems = oracle.problems(oracle.snapshot(server_id), **wanted)
    if problems:
        sys.exit("the oracle says:\n  " + "\n  ".join(problems))
    print("  the oracle finds nothing wrong and nothing left over", flush=True)


def clear():
    """Forget an earlier show: its servers and its journal."""
    for server in list(cloud.connect().compute.servers(all_projects=True)):
        if server.name in NAMES:
            cloud.delete(server.id)
    for file in Path(os.environ["CELLMOVE_JOURNAL"]).parent.glob("journal.db*"):
        file.unlink()


def main():
    """The whole show. The servers stay, to be looked at; the next show clears them away."""
    os.environ.update(environment())
    clear()

    say("A server in cell1, with a port and a volume")
    first = cloud.boot(NAMES[0], volumes=1)
    listing(first)
    run("plan", NAMES[0], "m1.small", "--cell", "cell2")
    say("The plan is in the journal. One step after the other; the guest runs on until prep-source.")
    run("prep-dest", NAMES[0])
    run("prep-source", NAMES[0])
    run("finish", NAMES[0])
    listing(first)
    run("confirm", NAMES[0])
    listing(first)
    host = cloud.show(first)["OS-EXT-SRV-ATTR:host"]
    expect(first, cell="cell2", host=host, flavor="m1.small", status="ACTIVE")

    say("Another one, volume-backed, all steps in one command; then its owner wants it back")
    second = cloud.boot(NAMES[1], volume_backed=True)
    before = oracle.snapshot(second)
    listing(first, second)
    run("migrate", NAMES[1], "--cell", "cell2")
    listing(first, second)
    run("revert", NAMES[1])
    listing(first, second)
    expect(second, cell="cell1", host="c1-host1", flavor="m1.tiny", status="ACTIVE")
    changed = oracle.compare(before, oracle.snapshot(second))
    if changed:
        sys.exit("it is not as it was:\n  " + "\n  ".join(changed))

    say("What the journal remembers")
    run("list", "--all")


if __name__ == "__main__":
    main()
