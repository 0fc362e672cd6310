"""Credentials, and the one function that calls REST APIs."""

from __future__ import annotations

import logging
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from cellmove.cloud import login_settings
from cellmove.cloud.failures import (
    API,
    NOT_UNDERSTOOD,
    OPERATOR,
    SERVICE,
    call_name,
    failure_of,
    first_line,
    parsed,
    translate_errors,
)
from cellmove.cloud.types import AuthPlugin, Body, Caller, Fields, OpenStackSdk, Resource
from cellmove.core import nova_conf
from cellmove.core.clock import Clock
from cellmove.core.errors import BadSetting, CallError, CallUncertain, CannotConnect, Misconfigured, Usage
from cellmove.core.retry import NO_WAIT, RetryPolicy, with_retry
from cellmove.core.settings import Settings, not_configured

if TYPE_CHECKING:
    from keystoneauth1.access import AccessInfo
    from openstack.connection import Connection
    from requests import Response

T = TypeVar("T")

READ_TIMEOUT = 120.0  # seconds; cinder and neutron answer some calls only after their own RPC
PROBE_TIMEOUT = 10.0  # seconds for an answer while probing
POOL = 64  # connections kept to one service: requests keeps ten, and a drain's threads would open the others anew each time
CHECK_AGE = 1.0  # seconds after which keystone is asked again whether a token is valid, before an RPC carries it
REVOCATION_SECONDS = 1.0  # how exact keystone is about when a token was issued
TOKEN_AGE = 300.0  # seconds after which a token is too old to begin a long RPC with

RPC_SERVICES = frozenset({"image", "block-storage", "volumev3", "network", "placement", "key-manager", "compute"})
"""What goes into an RPC context's catalog; nova/context.py keeps about these."""

_token_lock = threading.Lock()


def connect(settings: Settings) -> Connection:
    """The operator's connection, from clouds.yaml (``OS_CLOUD``) or ``OS_*`` variables.

    Nothing is sent yet; :func:`probe` finds out whether it works.

    :raises Misconfigured: no such cloud, or its entry is not complete
    """
    if settings.os_system_scope:
        why = "OS_SYSTEM_SCOPE asks for a token of the system, and cellmove needs one of a project; unset it"
        raise Misconfigured(f"{OPERATOR}: {why}")
    openstack = _openstack()
    with _configuring(OPERATOR, settings.os_cloud, from_clouds_yaml=True):
        connection = _from_clouds_yaml(openstack, settings.os_cloud, settings)
        _set_up(connection, OPERATOR, settings.connect_timeout)
        login_settings.check(connection.session, _file_names(settings))
        return connection


def _from_clouds_yaml(openstack: OpenStackSdk, cloud: str, settings: Settings) -> Connection:
    """Open a cloud of clouds.yaml, with the variables that openstackclient lets go before its entry (osc_lib/shell.py)."""
    given = {
        "region_name": settings.os_region_name,
        "interface": settings.os_interface,
        "cacert": settings.os_cacert,
    }
    options = {name: value for name, value in given.items() if value}
    connection: Connection = openstack.connect(cloud=cloud or None, app_name="cellmove", **options)
    return connection


def _file_names(settings: Settings) -> tuple[str, str, str]:
    """What the settings of the CA bundle, the client certificate and its key are called."""
    cacert, cert, key = login_settings.IN_CLOUDS_YAML
    return ("OS_CACERT" if settings.os_cacert else cacert, cert, key)


def connect_service(settings: Settings) -> Connection:
    """A connection with role ``service``, without which neutron refuses to touch port bindings.

    :raises Usage: no such credential is configured
    :raises Misconfigured: the one that is configured is not complete
    """
    openstack = _openstack()
    cloud = settings.service_cloud
    with _configuring(SERVICE, cloud, from_clouds_yaml=bool(cloud)):
        if cloud:
            connection = _from_clouds_yaml(openstack, cloud, settings)
        else:
            login = nova_conf.service_login(settings.nova_conf)
            if login is None:
                raise not_configured(settings, "service_login")
            connection = _from_nova_conf(openstack, login)
        _set_up(connection, SERVICE, settings.connect_timeout)
        names = _file_names(settings) if cloud else login_settings.IN_NOVA_CONF
        login_settings.check(connection.session, names)
        return connection


def _from_nova_conf(openstack: OpenStackSdk, login: nova_conf.ServiceLogin) -> Connection:
    extra = {}
    if login.endpoint_override:
        # nova may give it with and without the version, which openstacksdk expects to find in it.
        login_settings.check_url("[neutron]endpoint_override", login.endpoint_override)
        extra["network_endpoint_override"] = f"{unversioned(login.endpoint_override)}/v2.0"
    connection: Connection = openstack.connection.Connection(
        session=login.session, region_name=login.region_name or None, interface=list(login.interfaces), **extra
    )
    return connection


def unversioned(endpoint: str) -> str:
    """An endpoint without the version and the slashes that it may end in."""
    return re.sub(r"/v\d+(\.\d+)?$", "", endpoint.rstrip("/")).rstrip("/")


@contextmanager
def _configuring(credential: str, cloud: str, *, from_clouds_yaml: bool) -> Iterator[None]:
    """For making a connection: nothing is sent, so whatever the libraries raise is about what is configured.

    keystoneauth raises a plain Exception for a missing password and a TypeError for an option that its plug-in
    does not have; openstacksdk an AttributeError or a ValueError for a clouds.yaml of another shape.

    :param credential: whose, for messages
    """
    import os

    from cellmove.cloud import clouds_yaml

    try:
        yield
    except Usage:
        raise
    except Exception as error:  # noqa: BLE001
        said = clouds_yaml.fault(cloud, os.environ) if from_clouds_yaml else ""
        how = "" if cloud or not from_clouds_yaml else "; name a cloud of clouds.yaml, or set the OS_* variables"
        # Without a cloud's name the OS_* variables count, and a broken file only where they lack something.
        words = said if cloud and said else "; ".join(filter(None, (_words_of(error), said)))
        raise Misconfigured(f"{credential}: {words}{how}") from None


def _words_of(error: Exception) -> str:
    """What a library says of a configuration; the words of a conversion that failed quote the value."""
    if isinstance(error, AttributeError | LookupError):
        return f"a value is missing, or a package that this auth_type needs ({type(error).__name__})"
    if isinstance(error, ValueError) and not isinstance(error, BadSetting):
        return f"a value is of the wrong form ({type(error).__name__})"
    return first_line(error)


def _openstack() -> OpenStackSdk:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # optional parts that are not installed
        import openstack
        import openstack.connection
    for name in ("keystoneauth", "openstack"):
        # What matters of their warnings comes back as an exception; without a handler they would be
        # printed between our own lines.
        logging.getLogger(name).addHandler(logging.NullHandler())
    return openstack


def _set_up(connection: Connection, credential: str, connect_timeout: float) -> None:
    """Set the timeouts and how calls are sent, and remember whose credential it is for messages."""
    from cellmove.cloud import environment

    # Session converts its argument to one float; as an attribute it is handed to requests as it is,
    # and requests takes a pair.
    connection.session.timeout = (connect_timeout, READ_TIMEOUT)
    for adapter in connection.session.session.adapters.values():
        adapter.init_poolmanager(POOL, POOL)
    connection.session.session = environment.OnceRead(connection.session.session.adapters)
    connection.cellmove_credential = credential


def _keystone(connection: Connection) -> str:
    return f"keystone, with {getattr(connection, 'cellmove_credential', 'this credential')}"


def probe(connection: Connection, services: Sequence[str] = ()) -> None:
    """Log in and, if asked to, knock at some services, waiting seconds only.

    :param services: attribute names of the connection, such as ``compute``, ``block_storage``
    :raises CannotConnect: keystone or a service cannot be reached, or we are not let in
    """
    from keystoneauth1.session import Session

    with _no_access(), translate_errors(_keystone(connection), library=True):
        session = connection.session
        connect_timeout = session.timeout[0] if isinstance(session.timeout, tuple) else session.timeout
        # The plug-in keeps the token, so that the real session has it afterwards.
        quick = Session(auth=session.auth, verify=session.verify, cert=session.cert)
        quick.timeout = (connect_timeout or PROBE_TIMEOUT, PROBE_TIMEOUT)
        quick.get_token()
        for service in services:
            adapter = getattr(connection, service)
            endpoint = adapter.get_endpoint()
            if not endpoint:
                raise CannotConnect(f"the catalog has no {API.get(service, service)} for {_place(connection)}")
            with translate_errors(API.get(service, service)):
                quick.get(endpoint, authenticated=False, raise_exc=False)  # any answer will do


def _place(connection: Connection) -> str:
    """The region and interface that a connection looks for in the catalog."""
    config = getattr(connection, "config", None)
    region = getattr(config, "region_name", None)
    interface = config.get_interface() if config is not None and hasattr(config, "get_interface") else None
    words = f"the region {region}" if region else "this region"
    return f"{words}, interface {interface}" if isinstance(interface, str) else words


def rpc_credentials(connection: Connection) -> tuple[str, list[Resource]]:
    """What an RPC context has to carry, always both: a fresh token, and the service catalog.

    The token is renewed when it is older than five minutes or half of its life, since the call it
    goes with may take long. The catalog is in keystone's v2 form, because nova wraps it in
    ``ServiceCatalogV2`` (nova/context.py).

    :returns: token and catalog
    :raises CannotConnect: keystone cannot be reached or does not let us in
    """
    access = _access(connection, fresh=True)
    try:
        return str(access.auth_token), to_v2_catalog(access.service_catalog.catalog)
    except NOT_UNDERSTOOD:
        raise CannotConnect(f"{_keystone(connection)}: its catalog is not understood") from None


def caller(connection: Connection) -> Caller:
    """Return the user and project of a credential, for an RPC context.

    :returns: ``user_id``, ``project_id``, ``user_name``, ``project_name``, ``user_domain``,
        ``project_domain`` (both ids) and ``roles`` (names)
    :raises CannotConnect: the login fails, or the credential is not for a project: nova writes a
        project into every action, and a temporary image has to belong to one
    """
    access = _access(connection, fresh=False)
    if not access.project_id:
        raise CannotConnect("the operator's credential is not scoped to a project; cellmove needs one that is")
    return {
        "user_id": access.user_id,
        "project_id": access.project_id,
        "user_name": access.username,
        "project_name": access.project_name,
        "user_domain": access.user_domain_id,
        "project_domain": access.project_domain_id,
        "roles": list(access.role_names or ()),
    }


def _access(connection: Connection, *, fresh: bool) -> AccessInfo:
    with _no_access(), translate_errors(_keystone(connection), library=True), _token_lock:
        session = connection.session
        auth: AuthPlugin = session.auth
        if not hasattr(auth, "get_access"):
            raise CannotConnect(f"a credential of type {type(auth).__name__} cannot give a token and a catalog")
        access: AccessInfo = auth.get_access(session)
        if not fresh:
            return access
        now = datetime.now(UTC)
        if is_old(access.issued, access.expires, now):
            auth.invalidate()
        else:
            _check_token(connection, access, now)
        fresh_access: AccessInfo = auth.get_access(session)
        return fresh_access


def _check_token(connection: Connection, access: AccessInfo, now: datetime) -> None:
    """Show keystone a token, so that the session logs in anew if it was revoked.

    A call over the bus cannot do so: the other side would fail with it. Other faults are left to that call.
    keystone mostly answers 401 to a revoked token, and keystoneauth logs in anew. Its cache may still accept the token as
    the caller's, though (keystone/token/provider.py, ``check_revocation_v3``), while keystone no longer finds it: that is a
    404, and keystoneauth has not logged in again.
    """
    checked: datetime | None = getattr(connection, "cellmove_token_checked", None) or access.issued
    if checked is not None and abs((now - checked).total_seconds()) <= CHECK_AGE:
        return
    connection.cellmove_token_checked = now
    headers = {"X-Subject-Token": str(access.auth_token)}
    with suppress(CallError):
        response = request(connection, "identity", "GET", "/auth/tokens", headers=headers, accept={404})
        session = connection.session
        auth: AuthPlugin = session.auth
        if response.status_code == 404 and auth.get_access(session).auth_token == access.auth_token:
            _log_in_later(connection)


def _log_in_later(connection: Connection) -> bool:
    """Log in anew after a 401 that a new token got as well, or a 404. After a 401 keystoneauth has logged in once, at once.

    keystone revokes what was issued up to the second of a revocation, so a token of that same second is not valid either.

    :returns: False when the connection has no login
    """
    auth = getattr(getattr(connection, "session", None), "auth", None)
    if auth is None:
        return False
    time.sleep(REVOCATION_SECONDS)
    auth.invalidate()
    return True


def is_old(issued: datetime | None, expires: datetime | None, now: datetime) -> bool:
    """Whether a token is too old to begin a long call with. All three are in UTC."""
    if issued is None or expires is None:
        return True
    # abs: with a clock that is behind keystone's, ask once more rather than trust it.
    age = abs((now - issued).total_seconds())
    return age > min(TOKEN_AGE, (expires - issued).total_seconds() / 2)


def to_v2_catalog(catalog: Iterable[Fields]) -> list[Resource]:
    """A keystone catalog in v2 form, cut down to :data:`RPC_SERVICES`.

    Like keystonemiddleware's ``_v3_to_v2_catalog``, which made the catalog in the contexts that
    nova-api sends. Entries that are in v2 form already stay as they are.

    :param catalog: entries with ``endpoints`` of ``{region, interface, url}``
    :returns: entries with ``endpoints`` of ``{region, publicURL, internalURL, adminURL}``
    """
    converted: list[Resource] = []
    for service in catalog:
        if service.get("type") not in RPC_SERVICES:
            continue
        regions: dict[Any, Resource] = {}
        for endpoint in service.get("endpoints") or ():
            if "interface" not in endpoint:
                regions[len(regions)] = dict(endpoint)
                continue
            name = endpoint.get("region") or endpoint.get("region_id")
            region = regions.setdefault(name, {"region": name} if name else {})
            region[f"{endpoint['interface'].lower()}URL"] = endpoint["url"]
        converted.append(
            {"type": service["type"], "name": service.get("name") or "", "endpoints": list(regions.values())}
        )
    return converted


def project_name(connection: Connection, project_id: str) -> str:
    """A project's name; empty when keystone knows no such project any more."""
    response = request(connection, "identity", "GET", f"/projects/{project_id}", accept={404})
    return (
        "" if response.status_code == 404 else parsed(response, "identity", lambda body: str(body["project"]["name"]))
    )


def read(
    connection: Connection,
    service: str,
    path: str,
    read: Callable[[Body], T],
    *,
    params: Fields | None = None,
    microversion: str | None = None,
) -> T:
    """Look something up: a GET, and :func:`parsed` of its answer."""
    return parsed(request(connection, service, "GET", path, params=params, microversion=microversion), service, read)


def request(
    connection: Connection,
    service: str,
    method: str,
    path: str,
    *,
    json: Body = None,
    params: Fields | None = None,
    microversion: str | None = None,
    headers: Mapping[str, str] | None = None,
    accept: Iterable[int] = (),
) -> Response:
    """One REST call.

    :param service: the connection's attribute: ``compute``, ``network``, ``block_storage``,
        ``image``, ``placement``
    :param path: under the service's endpoint
    :param microversion: which one to ask for; without it, the service's oldest
    :param accept: statuses of 400 and above that the caller wants to see for itself
    :returns: the response, below 400 or accepted
    :raises NotFound: 404
    :raises CallFailed: any other refusal; ``kind`` is the status
    :raises CannotConnect: nothing was sent, or we are not let in
    :raises CallUncertain: no answer; the call may have been carried out. Never for a GET
    """
    options: Resource = {"skip_cache": True}  # clouds.yaml may switch on a cache
    if json is not None:
        options["json"] = json
    if params:
        options["params"] = dict(params)
    if microversion:
        options["microversion"] = microversion
    if headers:
        options["headers"] = dict(headers)
    if method != "GET":
        return _request(connection, service, method, path, options, accept)
    # A read is repeated once: the service may just have closed the connection that was kept open.
    policy = RetryPolicy(lambda error: isinstance(error, CallUncertain), attempts=2, waits=NO_WAIT)
    with _nothing_sent():
        return with_retry(lambda: _request(connection, service, method, path, options, accept), policy, Clock())


def _request(
    connection: Connection, service: str, method: str, path: str, options: Resource, accept: Iterable[int]
) -> Response:
    what = call_name(service, method, path)
    with translate_errors(what, library=True):
        response: Response = getattr(connection, service).request(path, method, **options)
        if response.status_code == 401 and _log_in_later(connection):
            response = getattr(connection, service).request(path, method, **options)
    if response.status_code >= 400 and response.status_code not in accept:
        raise failure_of(response, what, getattr(connection, "cellmove_credential", ""))
    return response


@contextmanager
def _no_access() -> Iterator[None]:
    """For getting a token: whatever keystone says, without one nothing else is sent."""
    try:
        yield
    except Misconfigured:
        raise
    except CallError as error:
        raise CannotConnect(str(error)) from None


@contextmanager
def _nothing_sent() -> Iterator[None]:
    """For calls that change nothing: no answer is then as good as not having asked."""
    try:
        yield
    except CallUncertain as error:
        raise CannotConnect(str(error)) from None
