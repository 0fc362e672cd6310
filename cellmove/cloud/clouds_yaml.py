"""What is wrong with clouds.yaml. openstacksdk skips a file that it cannot read and then finds no such cloud."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

VARIABLES = {"CONFIG_FILES": "OS_CLIENT_CONFIG_FILE", "SECURE_FILES": "OS_CLIENT_SECURE_FILE"}
"""openstacksdk's lists of files, and the variables that name another file."""


def fault(cloud: str, environ: Mapping[str, str]) -> str:
    """What is wrong with the files that a cloud was looked for in; empty when nothing is.

    :param cloud: its name; empty when none is named
    """
    found = list(_files(environ))
    for variable in VARIABLES.values():
        if environ.get(variable) and not Path(environ[variable]).exists():
            return f"{environ[variable]}, named by {variable}, does not exist" + (
                f"; no cloud {cloud} was found elsewhere" if cloud else ""
            )
    faults = [said for path in found if (said := _unreadable(path))]
    if faults or not cloud:
        return "; ".join(faults)
    main = next((path for path in found if path.stem in ("clouds", _stem(environ))), None)
    if main is None:
        return f"there is no clouds.yaml to look for the cloud {cloud} in (., ~/.config/openstack, /etc/openstack, OS_CLIENT_CONFIG_FILE)"
    clouds = _load(main)["clouds"]
    if cloud not in clouds:
        return f"{main} has no cloud {cloud}; it has: {', '.join(map(str, clouds)) or 'none'}"
    entry = clouds[cloud]
    if not isinstance(entry, dict):
        return f"{main}: clouds.{cloud} has to hold settings, as auth"
    if not isinstance(entry.get("auth", {}), dict):
        return f"{main}: clouds.{cloud}.auth has to hold settings, as auth_url"
    auth = entry.get("auth", {})
    url = auth.get("auth_url", "http://")
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        return f"{main}: clouds.{cloud}.auth.auth_url has to begin with http:// or https://"
    return ""


def _stem(environ: Mapping[str, str]) -> str:
    return Path(environ.get("OS_CLIENT_CONFIG_FILE") or "clouds.yaml").stem


def _files(environ: Mapping[str, str]) -> Iterator[Path]:
    """The files that openstacksdk reads: the first one that is there, of each list."""
    from openstack.config import loader

    for name, variable in VARIABLES.items():
        named = [environ[variable]] if environ.get(variable) else []
        for path in map(Path, [*named, *getattr(loader, name)]):
            if path.exists():
                yield path
                break


def _load(path: Path) -> Any:
    import yaml  # type: ignore[import-untyped]

    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _unreadable(path: Path) -> str:
    import yaml

    try:
        content = _load(path)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        return f"{path} is not UTF-8 text"
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        words = str(getattr(error, "problem", None) or "it is no YAML")
        if re.match(r"found (undefined|duplicate|unknown)|could not determine", words):
            words = words.partition("'")[0].strip()  # what is quoted is the file's own, and may be a password
        return f"{path}{where}: {words}"
    except ValueError:  # a date that there is not, for instance
        return f"{path} holds a value that YAML does not allow"
    clouds = content.get("clouds", {}) if isinstance(content, dict) else None
    if not isinstance(clouds, dict):
        return f"{path}: it has to hold clouds: and below that a name for each"
    return ""
