"""The show: two servers moved between the cells of the lab, with every command and what it prints.

Run by `make demo` in cellmove's own virtual environment; exits with 0 only if the first server ends
in cell2, ACTIVE, and the second is back in cell1 as it was.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from lab import cloud, oracle

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


def where(server_id):
    """What the cloud itself says of the server."""
    server = cloud.show(server_id)
    host, status = server["OS-EXT-SRV-ATTR:host"], server["status"]
    mapped = oracle.picture(server_id)["api"]["mapping"]["cell"]
    print(f"  nova says: {server['name']} is {status} on {host}, mapped to {mapped}", flush=True)


def expect(server_id, **wanted):
    """Stop the show when the oracle sees anything wrong."""
    problems = oracle.problems(oracle.picture(server_id), **wanted)
    if problems:
        sys.exit("the oracle says:\n  " + "\n  ".join(problems))
    print("  the oracle finds nothing wrong and nothing left over", flush=True)


def main():
    """The whole show."""
    os.environ.update(environment())
    made = []
    try:
        say("A server in cell1, with a port and a volume")
        made.append(cloud.boot("demo-1", volumes=1))
        first = made[-1]
        where(first)
        run("plan", first, "m1.small", "--cell", "cell2")
        say("The plan is in the journal. One step after the other; the guest runs on until prep-source.")
        run("prep-dest", first)
        run("prep-source", first)
        run("finish", first)
        where(first)
        run("confirm", first)
        where(first)
        host = cloud.show(first)["OS-EXT-SRV-ATTR:host"]
        expect(first, cell="cell2", host=host, flavor="m1.small", status="ACTIVE")

        say("Another one, volume-backed, all steps in one command; then its owner changes their mind")
        made.append(cloud.boot("demo-2", volume_backed=True))
        second = made[-1]
        before = oracle.picture(second)
        run("migrate", second, "--cell", "cell2")
        where(second)
        run("revert", second)
        where(second)
        expect(second, cell="cell1", host="c1-host1", flavor="m1.tiny", status="ACTIVE")
        changed = oracle.compare(before, oracle.picture(second))
        if changed:
            sys.exit("it is not as it was:\n  " + "\n  ".join(changed))

        say("What the journal remembers")
        run("list", "--all")
    finally:
        for server_id in made:
            cloud.delete(server_id)


if __name__ == "__main__":
    main()
