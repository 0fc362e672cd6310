"""`verify` on real nova: nothing that nova itself changes on the way may count as a difference."""

from __future__ import annotations

import pytest

from lab import cloud, oracle
from tests.scenarios import verifying
from tests.support.lab.environment import Lab

TARGET = "c2-host1"


@pytest.mark.lab
@pytest.mark.parametrize(("volume_backed", "active"), [(False, True), (True, False)])
def test_what_is_as_before_is_confirmed(cellmove, boot, volume_backed, active):
    verifying.what_is_as_before_is_confirmed(Lab(boot, cellmove), volume_backed=volume_backed, active=active)


@pytest.mark.lab
def test_a_guest_that_does_not_answer_is_not_confirmed(cellmove, boot):
    verifying.a_guest_that_does_not_answer_is_not_confirmed(Lab(boot, cellmove))


@pytest.mark.lab
def test_what_nova_itself_loses_is_named(cellmove, boot):
    server = boot("native", volume_backed=True, keypair="k1", volumes=1)
    cloud.native_move(server.id, host=TARGET)
    cellmove("adopt", server.id)
    said = cellmove("verify", server.id, "-f", "json").json
    assert {check["code"] for check in said["checks"] if check["level"] != "ok"} == {"vif-address"}
    cellmove("revert", server.id)
    shot = oracle.snapshot(server.id)
    assert oracle.problems(shot, cell="cell1", host="c1-host1", flavor="m1.tiny", status="ACTIVE") == []
