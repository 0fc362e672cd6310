"""What an API or one of its libraries says when a call goes wrong, as one of our errors that names the API and the call."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from cellmove.cloud.types import Body
from cellmove.core.errors import CallError, CallFailed, CallUncertain, CannotConnect, Misconfigured, NotFound

if TYPE_CHECKING:
    from requests import Response

T = TypeVar("T")

OPERATOR = "the operator's credential (--os-cloud, OS_CLOUD)"
SERVICE = "the service credential ([neutron] of nova.conf, or service_cloud)"

API = {
    "compute": "nova",
    "network": "neutron",
    "block_storage": "cinder",
    "image": "glance",
    "placement": "placement",
    "identity": "keystone",
}
"""What the services are called in messages."""

RIGHTS = {
    OPERATOR: f"{OPERATOR} is not an administrator's",
    SERVICE: f"{SERVICE} has not the role service",
}
"""Why a call was refused by policy, by the credential that it had."""

PHRASES = ("There was a conflict when trying to complete", "The server could not comply with the request since")
"""webob's own words, which placement puts before the reason."""

NOT_UNDERSTOOD = (KeyError, TypeError, ValueError, AttributeError, IndexError)
"""What reading a JSON value of another shape than expected raises."""


def call_name(service: str, method: str, path: str) -> str:
    """An API and a call of it, for messages."""
    return f"{API.get(service, service)}, {method} {path}"


def parsed(response: Response, service: str, read: Callable[[Body], T]) -> T:
    """What an answer says.

    :param service: see :func:`request`
    :param read: takes what is needed out of the JSON body, all of it at once
    :raises CallFailed: it is no JSON, or has another shape; ``kind`` is ``answer``
    :raises CallUncertain: the same of a call that may have changed something
    """
    try:
        return read(response.json())
    except NOT_UNDERSTOOD as error:
        lacking = f"it has no {error}" if isinstance(error, KeyError) else "it has another form than expected"
        why = "it is no JSON" if isinstance(error, ValueError) and not _is_json(response) else lacking
        method = getattr(response.request, "method", None) or "GET"
        path = urlsplit(getattr(response.request, "url", None) or "").path
        message = f"{call_name(service, method, path)}: the answer is not understood: {why}"
        raise (CallFailed(message, kind="answer") if method == "GET" else CallUncertain(message)) from None


def _is_json(response: Response) -> bool:
    try:
        response.json()
    except ValueError:
        return False
    return True


def failure_of(response: Response, what: str = "", credential: str = "") -> CallError:
    """Our error for a response of 400 or above, in the service's own words.

    :param what: the call, for the message; may be empty
    :param credential: whose rights it had; may be empty
    :returns: ``CannotConnect`` for 401, ``NotFound`` for 404, ``CallUncertain`` for 502 and 504 (a
        proxy gave up; behind it the call may go on), otherwise ``CallFailed``
    """
    words = (f"{what}: " if what else "") + words_of(response)
    if response.status_code == 403 and re.search(r"(?i)policy|not authorized|not permitted|forbidden", words):
        words += f"; {RIGHTS.get(credential, 'the credential has not the rights that are needed')}"
    if response.status_code == 401:
        return CannotConnect(words)
    if response.status_code == 404:
        return NotFound(words)
    if response.status_code in (502, 504) and response.request.method != "GET":
        return CallUncertain(words)
    return CallFailed(words, kind=str(response.status_code))


def words_of(response: Response) -> str:
    """The first telling line of what the service itself says, with the status."""
    words = ""
    try:
        words = _message_in(response.json())
    except ValueError:
        text = re.sub(r"<(title|head).*?</\1>", "", response.text or "", flags=re.DOTALL | re.IGNORECASE)
        words = " ".join(re.sub(r"<[^>]+>", " ", text).split())
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(PHRASES)] or lines
    return f"HTTP {response.status_code}: {(telling[0] if telling else response.reason or 'no reason given')[:300]}"


def _message_in(body: Body) -> str:
    """The error text in a JSON body: nova, cinder and keystone wrap it in one key, neutron in
    ``NeutronError`` with a type, placement in a list ``errors``, glance not at all."""
    if isinstance(body, str):
        return body
    if isinstance(body, list):
        return next((words for item in body if (words := _message_in(item))), "")
    if not isinstance(body, dict):
        return ""
    for key in ("message", "detail", "faultstring", "title"):
        if isinstance(body.get(key), str) and body[key]:
            return str(body[key])
    return next((words for item in body.values() if (words := _message_in(item))), "")


@contextmanager
def translate_errors(what: str = "", *, library: bool = False) -> Iterator[None]:
    """Turn the exceptions of openstacksdk, keystoneauth and requests into ours.

    :param what: whom we talk to, for the message; may be empty
    :param library: nothing but these libraries runs inside, so that whatever is raised is theirs
    :raises NotFound: 404
    :raises CallFailed: another refusal; ``kind`` is the HTTP status
    :raises CannotConnect: not reachable, not let in, not in the catalog, no such cloud
    :raises CallUncertain: sent, and no answer
    """
    try:
        yield
    except CallError:
        raise
    except Exception as error:
        translated = _translated(error, what)
        if translated is None and not library:
            raise
        prefix = f"{what}: " if what else ""
        if translated is None and type(error) is Exception:  # keystoneauth, of what a credential lacks
            raise Misconfigured(prefix + first_line(error)) from None
        raise translated or CallUncertain(f"{prefix}openstacksdk failed: {type(error).__name__}") from None


def _translated(error: Exception, what: str) -> CallError | None:
    """Our exception for one of the libraries'; None when it is none of theirs."""
    import requests
    from keystoneauth1 import exceptions as keystone
    from openstack import exceptions as sdk

    prefix = f"{what}: " if what else ""
    response = getattr(error, "response", None)
    if isinstance(error, keystone.Unauthorized | keystone.AuthPluginException | keystone.MissingAuthPlugin):
        words = words_of(response) if response is not None else first_line(error)
        return CannotConnect(prefix + words)
    if isinstance(error, keystone.AuthorizationFailure) and response is None:
        return Misconfigured(prefix + first_line(error))  # of the credential itself: nothing was sent
    if isinstance(error, keystone.HttpError | sdk.HttpException):
        if response is not None:
            return failure_of(response, what)
        status = getattr(error, "http_status", None) or getattr(error, "status_code", None)
        return CallFailed(prefix + first_line(error), kind=str(status or "http"))
    if isinstance(error, requests.exceptions.JSONDecodeError):
        return CallUncertain(f"{prefix}the answer is no JSON")
    if _is_of_a_url(error):
        return Misconfigured(
            f"{prefix}a URL cannot be used; see auth_url, endpoint_override, the catalog and the variables for proxies"
        )
    if isinstance(error, keystone.ConnectionError | requests.exceptions.RequestException):
        sent = was_sent(error)
        words = "no answer in time, or the connection broke" if sent else "cannot be reached"
        message = f"{prefix}{words} ({_reason(error)})"
        return CallUncertain(message) if sent else CannotConnect(message)
    if isinstance(error, keystone.ClientException | sdk.SDKException | requests.exceptions.HTTPError):
        # Catalog, discovery, configuration: nothing was sent.
        return CannotConnect(prefix + first_line(error))
    if type(error) is OSError and str(error).startswith("Could not find the"):  # requests, of a certificate
        return Misconfigured(
            f"{prefix}{first_line(error)} (cert and key in clouds.yaml, or certfile and keyfile in nova.conf)"
        )
    if type(error) is OSError and str(error).startswith("Could not find a suitable TLS CA"):
        return Misconfigured(f"{prefix}{first_line(error)} (OS_CACERT, cacert, [neutron]cafile, REQUESTS_CA_BUNDLE)")
    if isinstance(error, OSError):
        return CallUncertain(f"{prefix}the connection broke ({error.strerror or type(error).__name__})")
    return None


def _is_of_a_url(error: BaseException) -> bool:
    import requests

    kinds = requests.exceptions.InvalidURL | requests.exceptions.MissingSchema | requests.exceptions.InvalidSchema
    return any(isinstance(cause, kinds) for cause in _causes(error))


def was_sent(error: BaseException) -> bool:
    """Whether the request of a connection error may have reached the other side.

    keystoneauth makes one exception of a connection refused, one aborted and two kinds of timeout;
    the one below it tells.
    """
    import ssl

    import requests
    import urllib3

    for cause in _causes(error):
        if isinstance(cause, requests.exceptions.ConnectTimeout | ssl.SSLCertVerificationError):
            return False
        if isinstance(cause, requests.exceptions.InvalidURL | requests.exceptions.MissingSchema):
            return False
        if isinstance(cause, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError):
            return False
        if isinstance(cause, requests.exceptions.ProxyError):
            return False
    return True


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and those behind it: contexts, and what requests and urllib3 wrap."""
    pending: list[Any] = [error]
    seen: set[int] = set()
    while pending:
        current = pending.pop(0)
        if not isinstance(current, BaseException) or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        pending += [current.__cause__, current.__context__, getattr(current, "reason", None), *current.args]


def _reason(error: BaseException) -> str:
    """The innermost words, which do not hold the URL."""
    innermost = list(_causes(error))[-1]
    return first_line(innermost) if isinstance(innermost, OSError) else type(innermost).__name__


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]
