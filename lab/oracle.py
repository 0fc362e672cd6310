"""The judge of every test on the lab: `snapshot` looks, `problems` and `compare` say what is wrong.

before = snapshot(server)
...move it...
assert problems(snapshot(server), host="c2-host1", flavor="m1.tiny", status="ACTIVE") == []
assert compare(before, snapshot(server), moved=True) == []
"""

from lab.compare import compare
from lab.problems import problems
from lab.snapshot import snapshot

__all__ = ["compare", "problems", "snapshot"]
