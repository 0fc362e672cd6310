"""What a word can mean by its form."""

from __future__ import annotations

import pytest

from cellmove.core.reference import Kind, kind_of, means

ONE, TWO = "6f1c0a52-1b7e-4d0e-9a53-0e8f5f0f6a11", "0b8e6a52-1b7e-4d0e-9a53-0e8f5f0f6a22"


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        (ONE, Kind.UUID), (ONE.upper(), Kind.UUID), (ONE.replace("-", ""), Kind.NAME), (f"{{{ONE}}}", Kind.NAME),
        (f"urn:uuid:{ONE}", Kind.NAME), (f" {ONE}", Kind.NAME), ("move-ab12cd", Kind.MOVE_ID), ("audit-ab12cd", Kind.MOVE_ID),
        ("drain-ab12cd", Kind.MOVE_ID), ("move-AB12CD", Kind.NAME), ("move-ab12cd\n", Kind.NAME), ("move-ab12cde", Kind.NAME),
        ("move-web", Kind.NAME), ("web-1", Kind.NAME), ("", Kind.NAME), ("-x", Kind.NAME),
    ],
)  # fmt: skip
def test_the_form_of_a_word(word: str, kind: Kind) -> None:
    assert kind_of(word) is kind


def test_a_uuid_means_an_id_and_never_a_name() -> None:
    assert means(ONE.upper(), ONE, "cell1")
    assert not means(ONE, TWO, ONE)
    assert not means(ONE.upper(), TWO, ONE.upper())
    assert means("cell1", ONE, "cell1")
    assert not means("Cell1", ONE, "cell1")
