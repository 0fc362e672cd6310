"""nova ends our moves, and we end nova's: confirm and revert, four times over, with one server there and back."""

from __future__ import annotations

import pytest

from lab import cloud, oracle
from tests.support.lab.shared_server import settle

pytestmark = pytest.mark.lab

# Every two of the choices come together; all three would take twice as long and show nothing else.
KINDS = [
    ("image", "active", "resize"), ("image", "stopped", "migrate"),
    ("volume", "active", "migrate"), ("volume", "stopped", "resize"),
]  # fmt: skip


def all_kinds():
    """Running servers in `make test-lab`, stopped ones too in `make test-long`."""
    for kind in KINDS:
        yield pytest.param(*kind, id="-".join(kind), marks=[pytest.mark.long] if "stopped" in kind else [])


@pytest.mark.parametrize(("backing", "state", "kind"), list(all_kinds()))
def test_each_ends_what_the_other_began(cellmove, boot, backing, state, kind):
    server = boot("interop", volume_backed=backing == "volume", volumes=1, active=state == "active").id
    settled = "ACTIVE" if state == "active" else "SHUTOFF"
    disk = set(cloud.disk_hash(server).values())

    def check(cell, flavor, status=settled):
        settle(server)
        shot = oracle.snapshot(server)
        (host,) = cloud.guests(server)
        assert oracle.problems(shot, cell=cell, host=host, flavor=flavor, status=status) == []
        assert status == "VERIFY_RESIZE" or set(cloud.disk_hash(server).values()) == disk

    def ours(cell, flavor):
        how = ("resize", server, flavor) if kind == "resize" else ("migrate", server)
        cellmove(*how, "--cell", cell)

    def natively(cell, flavor):
        how = {"flavor": flavor} if kind == "resize" else {"host": f"c{cell[-1]}-host1"}
        cloud.native_move(server, **how)

    def adopted():
        unknown = cellmove("confirm", server, expect=5)
        assert f"next: cellmove adopt {server}" in unknown.stderr
        return cellmove("adopt", server, "-f", "json").json["move"]

    small, back = ("m1.small.cell2", "m1.small.cell1") if kind == "resize" else ("m1.tiny", "m1.tiny")
    ours("cell2", small)
    cloud.native_revert(server)
    check("cell1", "m1.tiny")
    natively("cell2", small)
    cellmove("revert", adopted())
    check("cell1", "m1.tiny")
    ours("cell2", small)
    cloud.native_confirm(server)
    check("cell2", small)
    natively("cell1", back)
    cellmove("confirm", adopted())
    check("cell1", back)
