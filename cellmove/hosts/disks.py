"""The disks of servers on compute hosts: looked at, made ready, renamed, removed. :mod:`cellmove.hosts.disk_pass` moves them.

Each function is one request to the program at the other end of a link (:mod:`cellmove.hosts.disk_link`). Paths are
relative to nova's ``instances_path``. All of them raise what :meth:`cellmove.hosts.disk_link.Link.request` does.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from cellmove.core.errors import CallFailed, NotFound
from cellmove.hosts.disk_link import Link, expect

T = TypeVar("T")


@dataclass(frozen=True)
class Facts:
    """What a host is.

    :param boot_id: of its kernel's last start; two destinations that have the same one are the same host
    :param uid: as whom the program runs
    :param qemu_img: the version, empty where it is not installed
    :param free: bytes that are free for us below instances_path
    :param total: bytes of that filesystem
    :param owner: uid of instances_path: nova's
    :param group: gid of it
    :param threads: that read and hash
    :param readable: whether instances_path may be read; of the disks in it, :func:`look` says whether
    :param writable: whether files may be made in it
    :param tells: whether its file system tells what was written to a disk since a moment
    """

    python: str
    hostname: str
    boot_id: str
    uid: int
    qemu_img: str
    free: int
    total: int
    device: int
    inode: int
    owner: int
    group: int
    threads: int
    readable: bool
    writable: bool
    tells: bool


@dataclass(frozen=True)
class Identity:
    """Which file it is, whatever its name: what may be replaced or removed is named by it."""

    device: int
    inode: int


@dataclass(frozen=True)
class File:
    """A file or directory.

    :param kind: ``file``, ``directory``, ``link`` or ``other``
    :param size: bytes
    :param allocated: bytes on the disk; less than the size where there are holes
    """

    kind: str
    size: int
    allocated: int
    mode: int
    uid: int
    gid: int
    device: int
    inode: int
    mtime_ns: int

    @property
    def identity(self) -> Identity:
        """Which file it is."""
        return Identity(self.device, self.inode)


@dataclass(frozen=True)
class Image:
    """What an image's first bytes say. A guest can write them into a raw disk: hold them against ``disk.info``.

    :param format: ``qcow2``, ``luks``, ``vmdk``, ``vhdx``, ``qed``; ``raw`` where nothing is known
    :param virtual_size: bytes
    :param backing: the backing file's name as written there; empty without one
    :param backing_format: empty where it is not recorded
    :param data_file: whether the data is in another file
    """

    format: str
    virtual_size: int
    backing: str
    backing_format: str
    data_file: bool
    encrypted: bool
    snapshots: int
    bitmaps: int


@dataclass(frozen=True)
class Entry:
    """A file in a directory: its name, what it is; of a regular one the image, of ``disk.info`` the text."""

    name: str
    file: File
    image: Image | None
    text: str


def marked(path: str, move_id: str) -> str:
    """The name under which a file is made until it is complete."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}.{name}.cellmove-{move_id}"


def facts(link: Link) -> Facts:
    """What the host is and what may be done there."""
    return _typed(link, Facts, link.request("facts").fields)


def look(link: Link, path: str) -> tuple[Entry, ...]:
    """What is in a directory, or the one file.

    :raises NotFound: there is nothing
    """
    answer = link.request("look", path=path)
    return tuple(_entry(link, each) for each in expect(link, answer, "entries", list))


def found(link: Link, path: str) -> tuple[Entry, ...]:
    """The same as :func:`look`, and nothing where there is nothing."""
    try:
        return look(link, path)
    except NotFound:
        return ()


def find(link: Link, path: str) -> Entry | None:
    """The one file, or None."""
    return next(iter(found(link, path)), None)


def prepare(link: Link, path: str, size: int | None = None) -> tuple[bool, str]:
    """Make an unfinished file, or open the one that is there.

    :param path: a marked one
    :param size: bytes that it shall have; None leaves them
    :returns: whether it existed, and a token: while it stays the same, only passes have changed the file
    """
    answer = link.request("prepare", path=path, size=size)
    return expect(link, answer, "existed", bool), expect(link, answer, "token", str)


def sync(link: Link, path: str, *, mode: int = 0o644, uid: int | None = None, gid: int | None = None) -> File:
    """Give a marked file its owner and mode, and wait until all of it is on the disk.

    :param uid: None: nova's, where the program runs as root
    """
    return _file(link, link.request("sync", path=path, mode=mode, uid=uid, gid=gid).fields)


def rename(link: Link, path: str, to: str, *, file: Identity, over: Identity | None = None) -> File:
    """Give a finished file its name in the same directory. May be repeated.

    :param path: a marked one
    :param to: the name alone
    :param file: which file it is, as :func:`sync` returned it
    :param over: the file that may be replaced; without it nothing is
    :raises CallFailed: ``exists``, ``identity``
    """
    expected = _identity(over) if over is not None else None
    return _file(link, link.request("rename", path=path, to=to, file=_identity(file), over=expected).fields)


def remove(link: Link, path: str, *, file: Identity | None = None) -> bool:
    """Remove a file, or an empty directory. What does not carry this move's mark has to be the expected one.

    :returns: whether there was anything
    :raises CallFailed: ``identity``, ``not-empty``, ``path``
    """
    answer = link.request("remove", path=path, file=_identity(file) if file is not None else None)
    return expect(link, answer, "removed", bool)


def rmdir(link: Link, path: str, *, file: Identity) -> bool:
    """Remove an empty directory that is the expected one; see :func:`remove`."""
    return remove(link, path, file=file)


def mkdir(
    link: Link, path: str, *, mode: int = 0o755, uid: int | None = None, gid: int | None = None
) -> tuple[bool, File]:
    """Make a directory unless it is there.

    :returns: whether it was made, and the directory
    """
    answer = link.request("mkdir", path=path, mode=mode, uid=uid, gid=gid)
    return expect(link, answer, "made", bool), _file(link, answer.fields)


def rebase(link: Link, path: str, backing: str, backing_format: str) -> Image:
    """Write another backing file into a marked image's header; its content is not looked at (``qemu-img rebase -u``).

    :param backing: relative to instances_path; it has to be there, in that format
    """
    answer = link.request("rebase", path=path, backing=backing, format=backing_format)
    return _typed(link, Image, expect(link, answer, "image", dict))


def flatten(link: Link, path: str) -> Image:
    """Take into a marked image what its backing file holds, so that it needs none (``qemu-img rebase -b ""``)."""
    return _typed(link, Image, expect(link, link.request("rebase", path=path, backing="", format=""), "image", dict))


def holders(link: Link, path: str) -> int:
    """How many processes on the host have a file open, as far as the program can see them (its own does not count)."""
    return expect(link, link.request("holders", path=path), "open", int)


@dataclass(frozen=True)
class Sample:
    """What a guest reads of its disk.

    :param virtual_size: bytes
    :param places: offsets in the disk as the guest sees it
    :param digests: SHA-256 of what is there, of the same order
    """

    virtual_size: int
    places: tuple[int, ...]
    digests: tuple[bytes, ...]


def sample(link: Link, path: str, disk_format: str, *, places: Sequence[int] | None = None, most: int = 256) -> Sample:
    """Read a disk at some places, through its own tables and what it stands on.

    :param disk_format: as ``disk.info`` says: what a guest wrote into a raw disk may look like a qcow2 image
    :param places: offsets; None: evenly where the guest wrote something, ``most`` at most
    :raises CallFailed: ``image``: it cannot be read here
    """
    given = list(places) if places is not None else None
    answer = link.request("sample", path=path, format=disk_format, places=given, most=most)
    found = [int(each) for each in expect(link, answer, "places", list)]
    if len(answer.payload) != 32 * len(found):
        raise CallFailed(f"{link.host} answered with too few hashes: is it of this version?", kind="nonsense")
    digests = tuple(bytes(answer.payload[at : at + 32]) for at in range(0, len(answer.payload), 32))
    return Sample(expect(link, answer, "virtual_size", int), tuple(found), digests)


def tidy(link: Link, *, on: bool = True) -> None:
    """Whether the unfinished files go when the connection ends. They stay unless asked for: the next pass goes on from them."""
    link.request("tidy", on=on)


def share_storage(source: Link, target: Link) -> bool:
    """Whether both hosts have one and the same instances_path: a file made at one end is seen at the other.

    Should the connection end meanwhile, the file goes with it.
    """
    tidy(target)
    path = marked(f"shared-{secrets.token_hex(4)}", target.move_id)
    try:
        prepare(target, path, secrets.randbelow(1 << 20) + 1)
        (made,), (seen,) = look(target, path), look(source, path)
    except NotFound:
        return False
    finally:
        remove(target, path)
        tidy(target, on=False)
    return (made.file.inode, made.file.size) == (seen.file.inode, seen.file.size)


def _typed(link: Link, kind: type[T], answer_fields: Mapping[str, Any]) -> T:
    """A dataclass from an answer's fields."""
    kinds = {"str": str, "int": int, "bool": bool}
    values = {}
    for each in fields(kind):  # type: ignore[arg-type]
        value = answer_fields.get(each.name)
        if type(value) is not kinds[str(each.type)]:
            raise CallFailed(
                f"{link.host} answered without a proper {each.name!r}: is it of this version?", kind="nonsense"
            )
        values[each.name] = value
    return kind(**values)


def _file(link: Link, answer_fields: Mapping[str, Any]) -> File:
    inner = answer_fields.get("file")
    return _typed(link, File, inner if isinstance(inner, dict) else {})


def _entry(link: Link, answer_fields: Any) -> Entry:
    if not isinstance(answer_fields, dict):
        raise CallFailed(f"{link.host} answered with no proper entry: is it of this version?", kind="nonsense")
    image = _typed(link, Image, answer_fields["image"]) if isinstance(answer_fields.get("image"), dict) else None
    return Entry(
        str(answer_fields.get("name")), _typed(link, File, answer_fields), image, str(answer_fields.get("text") or "")
    )


def _identity(file: Identity) -> dict[str, int]:
    return {"device": file.device, "inode": file.inode}
