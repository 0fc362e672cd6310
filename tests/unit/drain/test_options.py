"""What is asked of a drain: filters, durations, maps, and the way into the journal and back."""

from __future__ import annotations

import json

import pytest

from cellmove.core.errors import Usage
from cellmove.drain.options import (
    SKIP_TAG,
    DrainOptions,
    from_document,
    parse_confirm,
    parse_filter,
    parse_flavor_map,
    parse_seconds,
    skip_reason,
    to_document,
)

WEB = {
    "project": ("5a5a", "admin"), "flavor": ("m1.tiny",), "host": ("c1-host1",), "tag": ("blue", "web"), "name": ("web-1",),
    "state": ("active", "ACTIVE"),
}  # fmt: skip


def options(include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> DrainOptions:
    return DrainOptions(
        include=tuple(parse_filter(text, "--include") for text in include),
        exclude=tuple(parse_filter(text, "--exclude") for text in exclude),
    )


@pytest.mark.parametrize(
    ("include", "exclude", "why"),
    [
        ((), (), None),
        (("name=web-*",), (), None),
        (("name=db-*", "name=web-*"), (), None),
        (("name=WEB-*",), (), ("not-included", "--include name=WEB-*")),
        (("name=db-*", "name=dc-*"), (), ("not-included", "--include name=db-* or name=dc-*")),
        (("name=web-*", "host=c1-host2"), (), ("not-included", "--include host=c1-host2")),
        (("tag=bl*", "project=admin", "state=ACTIVE"), (), None),
        ((), ("tag=web",), ("excluded", "--exclude tag=web")),
        (("name=web-*",), ("flavor=m1.*",), ("excluded", "--exclude flavor=m1.*")),
        ((), ("tag=green", "host=c2-*"), None),
    ],
)
def test_filters(include: tuple[str, ...], exclude: tuple[str, ...], why: tuple[str, str] | None) -> None:
    assert skip_reason(options(include, exclude), WEB) == why


def test_the_tag_goes_before_everything() -> None:
    tagged = WEB | {"tag": (SKIP_TAG,)}
    assert skip_reason(options(("name=web-*",)), tagged) == ("tag", "it has the tag cellmove:skip")
    assert skip_reason(options((), ("name=web-*",)), tagged) == ("tag", "it has the tag cellmove:skip")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400), ("24h", 86400), ("2d", 172800), ("0", 0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_seconds(text, "--soak") == seconds


@pytest.mark.parametrize("text", ["", "m", "-1", "10 m", "10w", "1h30m"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(Usage, match="--soak"):
        parse_seconds(text, "--soak")


def test_when_to_confirm() -> None:
    assert parse_confirm("never") == ("never", 0)
    assert parse_confirm("verified") == ("verified", 0)
    assert parse_confirm("after:24h") == ("after", 86400)
    for text in ("after", "after:", "before:1h", "verified:1h", ""):
        with pytest.raises(Usage, match="--confirm"):
            parse_confirm(text)


def test_flavors() -> None:
    assert parse_flavor_map(["a=b", "c=d", "a=b"]) == {"a": "b", "c": "d"}
    assert parse_flavor_map(["a=b=c"]) == {"a": "b=c"}
    for texts in (["a"], ["=b"], ["a="], ["a=b", "a=c"]):
        with pytest.raises(Usage, match="--flavor-map"):
            parse_flavor_map(texts)


@pytest.mark.parametrize("text", ["name", "=x", "name=", "colour=red", "Name=x", ""])
def test_what_is_no_filter(text: str) -> None:
    with pytest.raises(Usage, match="project, flavor, host, tag, name, state"):
        parse_filter(text, "--include")


def test_through_the_journal_and_back() -> None:
    full = DrainOptions(
        to=("cell2", "cell3"), parallel=4, per_source_host=1, per_target_host=2, per_project=3, order="host",
        include=(parse_filter("name=a=*", ""),), exclude=(parse_filter("tag=b", ""),), limit=5, flavor_map={"a": "b"},
        confirm="after", confirm_after=3600.0, soak=60.0, on_unverified="revert", probes=("tcp:22",), max_failures=0,
        until="06:00", window="22:00-06:00", days="mon-fri", min_free=7.5, pause_file="/tmp/x",  # noqa: S108 - never opened
        force_locked=True, accept_loss=("swap",), max_hosts=2,
    )  # fmt: skip
    for each in (full, DrainOptions()):
        assert from_document(json.loads(json.dumps(to_document(each)))) == each
    assert from_document({}) == DrainOptions()
    assert from_document(to_document(DrainOptions()) | {"of a newer one": 1}) == DrainOptions()
