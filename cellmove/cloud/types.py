"""Types of what REST APIs answer, and of libraries without type annotations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, TypedDict

Body: TypeAlias = Any
"""The decoded JSON body of an answer. :func:`cellmove.cloud.failures.parsed` runs the function that checks its form."""

Resource: TypeAlias = dict[str, Any]
"""A resource of an API, with all of its fields: a decoded JSON object."""

Fields: TypeAlias = Mapping[str, Any]
"""Some fields of a resource, or the parameters of a query."""

OpenStackSdk: TypeAlias = Any
"""The module ``openstack``."""

AuthPlugin: TypeAlias = Any
"""An authentication plug-in of keystoneauth."""


class Caller(TypedDict):
    """The user and project of a credential.

    :param user_domain: its id
    :param project_domain: its id
    :param roles: their names
    """

    user_id: str
    project_id: str
    user_name: str
    project_name: str
    user_domain: str
    project_domain: str
    roles: list[str]
