"""What `verify` says of moved servers, and `confirm` makes of it."""

from __future__ import annotations

import sys

from tests.scenarios.environment import Place

TARGET = "c2-host1"


def what_is_as_before_is_confirmed(place: Place, *, volume_backed: bool, active: bool) -> None:
    """A server that was moved well is verified without a word of difference, and confirmed."""
    server = place.boot("verified", volume_backed=volume_backed, active=active, ports=2, volumes=1)
    place.cellmove("resize", server.name, "m1.small", "--host", TARGET)
    said = place.cellmove("verify", server.name, "-f", "json").json
    assert said["verified"]
    levels = {check["code"]: check["level"] for check in said["checks"]}
    assert levels == {
        **dict.fromkeys(("guest", "records", "flavor", "network", "volumes"), "ok"),
        **({} if volume_backed else {"disk-not-compared": "warning"}),
    }
    asked = f'cmd:{sys.executable} -c \'import os; assert os.environ["CELLMOVE_SERVER_ID"] == "{server.id}"\''
    probed = place.cellmove("confirm", server.name, "--probe", asked)
    assert "confirmed" in probed.stdout
    late = place.cellmove("verify", server.name, expect=5)
    assert "between finish and confirm" in late.stderr


def a_guest_that_does_not_answer_is_not_confirmed(place: Place) -> None:
    """A probe that fails keeps the server in VERIFY_RESIZE, until it is forced."""
    server = place.boot("silent")
    place.cellmove("migrate", server.name, "--host", TARGET)
    before = place.snapshot(server.id)
    for wrong in ("tcp:0", "ping:2", "telepathy", "cmd:", "cmd:'"):
        assert "probe" in place.cellmove("confirm", server.name, "--probe", wrong, expect=2).stderr
    refused = place.cellmove("confirm", server.name, "--probe", "cmd:false", expect=5)
    assert "cmd:false: the command ended with 1" in refused.stderr
    assert "next: cellmove verify" in refused.stderr
    assert place.snapshot(server.id) == before
    place.cellmove("confirm", server.name, "--probe", "cmd:false", "--force")
