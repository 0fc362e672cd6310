"""The oracle of disks that are files: each server's are where it lives, whole, and nowhere else."""

from __future__ import annotations

from cellmove.sandbox import disks
from cellmove.sandbox.seed import IMAGE
from cellmove.sandbox.store import HOSTS, Cloud


def problems(cloud: Cloud, server: str, *, lives: str = "", kept: str = "") -> list[str]:
    """What is wrong with a server's files.

    :param lives: the host where they have to be; empty when the server is no more, or has none
    :param kept: another one that keeps them for a revert
    """
    if cloud.instances is None:
        return []
    found = []
    for host in HOSTS:
        folder = cloud.instances.path(host)
        if host in (lives, kept):
            found += [f"{host}: {words}" for words in _of_disk(cloud, host, server)]
        elif (folder / server).exists():
            names = sorted(path.name for path in (folder / server).iterdir())
            found.append(f"{host} still has a directory of the server: {names}")
        found += [f"{host}: {path.relative_to(folder)} is left" for path in folder.rglob(".*.cellmove-*")]
    return found


def _of_disk(cloud: Cloud, host: str, server: str) -> list[str]:
    content = disks.read(cloud, host, server)
    if content is None or cloud.instances is None:
        return ["the disk is gone"]
    last, base = cloud.world.tokens[host].get(server), f"_base/{disks.base_of(IMAGE)}"
    found = [] if content.whole else ["the disk is not what its guest wrote"]
    if content.token != last:
        found.append(f"the disk ends with {content.token!r}, and its guest wrote {last!r} last")
    if content.backing != f"{cloud.instances.seen(host)}/{base}":
        found.append(f"the disk stands on {content.backing}")
    there, fetched = cloud.instances.path(host) / base, disks.base_content(IMAGE)
    if not there.exists() or there.read_bytes() != fetched:
        found.append("what the disk stands on is not the image")
    return found
