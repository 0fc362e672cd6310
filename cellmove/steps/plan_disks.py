"""How a server's disks will travel, as far as ``plan`` can know it: the hosts are looked at, nothing is written.

The target host is chosen later; what speaks against it is seen then (:mod:`cellmove.steps.stream`).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from cellmove.core.errors import CallError
from cellmove.core.transfer import IMAGE, STREAM, Ssh
from cellmove.hosts.disk_links import destination
from cellmove.hosts.disk_survey import Survey, survey_source, survey_target

if TYPE_CHECKING:
    from collections.abc import Callable

    from cellmove.checks.snapshot import ServerSnapshot
    from cellmove.core.settings import Settings
    from cellmove.gateway import Gateway

FLOOR = 3.0
"""Seconds that a guest is down whatever its size: stopped here, started there."""

RATE = 400 << 20
"""Bytes a second of a disk that are read at the source and then at the target while the guest is down."""

NOT_CONFIGURED = "hosts are not reached by ssh (there is no table [ssh] in config.toml)"
NO_WAY = Survey(hindrances=(NOT_CONFIGURED,))


def with_disks(gateway: Gateway, snapshot: ServerSnapshot, wish: str | None, bwlimit: int | None) -> ServerSnapshot:
    """Add what the source host, and the target host if it was named, have to say.

    :param wish: one of :data:`cellmove.core.transfer.TRANSFERS`; None: as the settings say
    :param bwlimit: bytes a second; 0: none; None: as the settings say
    """
    ssh = gateway.settings.ssh
    return _with_survey(
        gateway.settings, snapshot, wish, bwlimit, lambda: NO_WAY if ssh is None else _survey(ssh, snapshot)
    )


def disks_assumed(
    settings: Settings, snapshot: ServerSnapshot, wish: str | None, bwlimit: int | None
) -> ServerSnapshot:
    """The same without asking a host, for many servers: what may be streamed is taken to be; each is looked at again before it goes.

    :param wish: and ``bwlimit``: as of :func:`with_disks`
    """
    survey = NO_WAY if settings.ssh is None else Survey()
    return _with_survey(settings, snapshot, wish, bwlimit, lambda: survey)


def _with_survey(
    settings: Settings, snapshot: ServerSnapshot, wish: str | None, bwlimit: int | None, survey: Callable[[], Survey]
) -> ServerSnapshot:
    wish, bwlimit = wish or settings.transfer, settings.bwlimit if bwlimit is None else bwlimit
    needless = snapshot.is_volume_backed or wish == IMAGE
    return dataclasses.replace(snapshot, transfer_wish=wish, bwlimit=bwlimit, survey=None if needless else survey())


def _survey(ssh: Ssh, snapshot: ServerSnapshot) -> Survey:
    from cellmove.hosts.disk_link import connect
    from cellmove.hosts.disks import facts

    server, wanted = snapshot.instance, snapshot.wanted_host
    try:
        with connect(destination(ssh, server.host), "plan") as source:
            survey = survey_source(source, server.uuid, server.image_ref)
            if survey.hindrances:
                return survey
            if not wanted:
                return dataclasses.replace(survey, tells=facts(source).tells)
            with connect(destination(ssh, wanted), "plan") as target:
                return survey_target(target, source, server.uuid, survey)
    except CallError as error:
        return Survey(hindrances=(str(error),))


def disk_summary(snapshot: ServerSnapshot) -> dict[str, object]:
    """What of it a person is shown."""
    survey = snapshot.survey
    found: dict[str, object] = {
        "transfer": snapshot.transfer,
        "transfer_why": "; ".join(survey.hindrances) if survey else "",
    }
    if snapshot.transfer == STREAM and survey is not None:
        found |= {
            "disks": [{"name": disk.name, "mib": disk.allocated >> 20} for disk in survey.disks],
            "downtime_seconds": round(downtime(survey)) if snapshot.instance.vm_state == "active" else 0,
        }
    return found


def downtime(survey: Survey) -> float:
    """Seconds that the guest is expected to be down: a rough figure, of disks that are not written to faster than sent.

    Where the source tells what was written since the last pass, its disks are not read as a whole once more.
    """
    return FLOOR if survey.tells else FLOOR + survey.allocated / RATE
