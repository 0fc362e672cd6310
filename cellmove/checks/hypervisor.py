"""Whether nova's virt driver, where the server is, can serve a cross-cell move."""

from __future__ import annotations

from cellmove.checks.result import CheckResults, refusal, warning
from cellmove.checks.snapshot import ServerSnapshot
from cellmove.checks.suitability import BARE_METAL, is_unknown, why_unable


def check_hypervisor(snapshot: ServerSnapshot) -> CheckResults:
    """Refuse bare metal and other drivers that would lose the server; warn of one that is not known."""
    node = snapshot.source_node
    if node is None:
        return
    why = why_unable(node.hypervisor)
    if node.hypervisor.startswith(BARE_METAL):
        yield refusal(
            "bare-metal",
            f"this is a bare-metal server: {node.host} {why}, and its data would be lost",
            "the server cannot be moved: build it anew on a node of the other cell. "
            f"A drain leaves it out with --exclude host={node.host}",
        )
    elif why:
        yield refusal(
            "hypervisor-unable",
            f"{node.host} {why}",
            "the server cannot be moved between cells: build it anew in the other cell, from a snapshot or a backup",
        )
    elif is_unknown(node.hypervisor):
        yield warning(
            "hypervisor-unknown",
            f"{node.host} reports the hypervisor {node.hypervisor}, which is none of nova's own: whether its driver can "
            "stop a guest, keep its disk and start it again on a revert is not known",
            "try it with a server that may be lost",
        )
