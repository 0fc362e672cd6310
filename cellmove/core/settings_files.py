"""The files that settings are read from: ``config.toml`` and nova's configuration files."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

from cellmove.core.errors import Usage

DEFAULT_NOVA_CONF = tuple(
    Path("/etc/nova") / name for name in ("nova.conf", "nova-conductor.conf", "nova.conf.d", "nova-conductor.conf.d")
)
"""The files that nova-conductor reads without ``--config-file`` (oslo_config/cfg.py, ``find_config_files``)."""


def config_path(environ: Mapping[str, str]) -> Path:
    """Return the path of cellmove's own configuration file, which may be missing."""
    if environ.get("CELLMOVE_CONFIG"):
        return expanded(environ["CELLMOVE_CONFIG"], "CELLMOVE_CONFIG")
    base = environ.get("XDG_CONFIG_HOME")
    return expanded(f"{base or home_directory(environ) / '.config'}/cellmove/config.toml", "XDG_CONFIG_HOME")


def home_directory(environ: Mapping[str, str]) -> Path:
    """Return the home directory of this user."""
    return Path(environ["HOME"]) if environ.get("HOME") else expanded("~", "HOME is not set")


def expanded(path: str, setting: str) -> Path:
    """Return a path whose ``~`` is replaced by a home directory.

    :param setting: the setting of the path, for the message
    :raises Usage: there is no such user, or the text cannot be a path
    """
    if "\0" in path:
        raise Usage(f"{setting}: a path has no NUL character in it")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise Usage(f"{setting}: {path}: there is no such user, or the home directory is not known") from None


def read_config(environ: Mapping[str, str], known: Mapping[str, tuple[type, ...]]) -> dict[str, object]:
    """Return the content of config.toml; nothing when there is no file at the default path.

    :param known: the types that each key may have
    :raises Usage: the file cannot be read, holds an unknown key, or a value of another type
    """
    path = config_path(environ)
    try:
        with path.open("rb") as file:
            config = tomllib.load(file)
    except FileNotFoundError:
        if environ.get("CELLMOVE_CONFIG"):
            raise Usage(f"{path}, named by CELLMOVE_CONFIG, does not exist") from None
        return {}
    except OSError as error:
        raise Usage(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Usage(f"{path} is not valid TOML: {error}") from None
    for key, value in config.items():
        expected = known.get(key)
        if expected is None:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
            raise Usage(f"{path}: unknown key {key!r}; {hint}")
        if not isinstance(value, expected) or isinstance(value, bool):
            raise Usage(f"{path}: {key} has a value of the wrong type ({type(value).__name__})")
    return config


def nova_conf_paths(chosen: object) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Return the files to read as nova.conf, later ones winning, and the default ones that this user may not read.

    A directory stands for its files ``*.conf`` in the order of their names, as with oslo.config's ``--config-dir``.

    :param chosen: a list of paths, or one text with colons between them; empty: the default files
    :raises Usage: a named file is missing or unreadable
    """
    if chosen:
        names = chosen if isinstance(chosen, list) else str(chosen).split(":")
        if not all(isinstance(name, str) for name in names):
            raise Usage("nova_conf has to be a path or a list of paths")
        named = [expanded(name, "nova_conf (--nova-conf, CELLMOVE_NOVA_CONF)") for name in names if name]
        for path in named:
            if not os.access(path, os.R_OK):
                why = "cannot be read by this user" if path.exists() else "does not exist"
                raise Usage(f"{path} {why}; name nova's configuration with --nova-conf or CELLMOVE_NOVA_CONF")
        return _expand(named), ()
    present = [path for path in DEFAULT_NOVA_CONF if _exists(path)]
    readable = [path for path in present if os.access(path, os.R_OK)]
    return _expand(readable), tuple(str(path) for path in present if path not in readable)


def _exists(path: Path) -> bool:
    """Return whether a path exists; one in a directory that this user may not search counts as existing."""
    try:
        return path.exists()
    except PermissionError:
        return True


def _expand(paths: list[Path]) -> tuple[Path, ...]:
    found: list[Path] = []
    for path in paths:
        try:
            found.extend(sorted(path.glob("*.conf")) if path.is_dir() else [path])
        except OSError as error:
            raise Usage(f"{path} cannot be read: {error.strerror}") from None
    return tuple(found)
