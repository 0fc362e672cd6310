"""Tests on real guests: libvirt, QEMU and sshd of the lab's hosts c1-kvm1 and c2-kvm1."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session", autouse=True)
def real_hosts(lab_environment: dict[str, str]) -> None:
    """Fails without them: whoever collects these tests wants them to be run (tests/lab/conftest.py)."""
    from lab import kvm

    if not kvm.present():
        pytest.fail("the lab has no hosts with a real hypervisor: run `make lab-up KVM=1`")


@pytest.fixture
def boot_guest(real_hosts: None) -> Iterator[Callable[..., str]]:
    """Boots guests that are at work when their server's id is returned, and deletes them at the end."""
    from lab import cloud, kvm

    made: list[str] = []

    def boot_one(**how: Any) -> str:
        made.append(kvm.boot(f"real-{uuid.uuid4().hex[:6]}", **how))
        return made[-1]

    yield boot_one
    for server_id in made:
        cloud.delete(server_id)
