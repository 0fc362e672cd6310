"""The judge of the disks is judged: what `lab.kvm` makes of a guest's words."""

from __future__ import annotations

import pytest

from lab import kvm

pytestmark = [pytest.mark.lab, pytest.mark.kvm, pytest.mark.xdist_group("guests")]

ONE, TWO = "1" * 64, "2" * 64


def test_what_is_overwritten_is_not_counted_on_until_it_is_written():
    said = kvm.parse(
        f"lab: found {ONE}  root/a\r\nlab: wrote {ONE}  root/b\r\nlab: writes root/a\r\nlab: writes root/b\r\n"
    )
    assert said.known == {}
    assert kvm.parse(f"{said.text}lab: wrote {TWO}  root/b\r\n").known == {"root/b": TWO}


def test_half_a_line_is_none():
    text = f"[    2.1] somethinglab: wrote {ONE}  root/a\r\nlab: wrote {TWO}  root/lo"
    assert kvm.parse(text).known == {"root/a": ONE}


def test_a_file_that_is_gone_or_another_one_is_lost():
    before = kvm.parse(f"lab: wrote {ONE}  root/a\r\nlab: wrote {ONE}  root/b\r\nlab: wrote {ONE}  root/c\r\n")
    after = kvm.parse(f"lab: found {ONE}  root/a\r\nlab: found {TWO}  root/b\r\nlab: found all\r\n")
    assert after.checked
    assert kvm.lost(before, after) == {"root/b": (ONE, TWO), "root/c": (ONE, None)}
