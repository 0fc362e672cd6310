"""The judge of every test on the lab: `picture` looks, `problems` and `compare` say what is wrong.

before = picture(server)
...move it...
assert problems(picture(server), host="c2-host1", flavor="m1.tiny", status="ACTIVE") == []
assert compare(before, picture(server), moved=True) == []
"""

from lab.compare import compare
from lab.picture import picture
from lab.problems import problems

__all__ = ["compare", "picture", "problems"]
