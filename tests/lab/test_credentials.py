"""Logins on a real keystone: an application credential, a user with role service alone, tokens that are revoked meanwhile."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import certifi
import pytest
import yaml
from keystoneauth1.identity import V3Password
from keystoneauth1.session import Session
from openstack.config import OpenStackConfig
from openstack.connection import Connection

from lab import cloud, oracle
from lab.layout import PASSWORD
from tests.lab.conftest import Cellmove, Started
from tests.scenarios.environment import Server

Login = Callable[..., dict[str, str]]

BEFORE_LONG_CALLS = (
    "prep-dest:claim:before-intent", "prep-source:stop_source:before-intent", "finish:start_target:before-intent",
    "confirm:clean_source:before-intent",
)  # fmt: skip


@pytest.fixture
def new_user(lab_environment: dict[str, str]) -> Iterator[Callable[[str, str], Any]]:
    """Makes users with one role in one project; they are deleted at the end."""
    identity = cloud.connect().identity
    made: list[Any] = []

    def make(project: str, role: str) -> Any:
        name = f"cellmove-{role}-{uuid.uuid4().hex[:6]}"
        user = identity.create_user(name=name, password=f"pw-{name}", domain_id="default")
        made.append(user)
        place = identity.find_project(project, ignore_missing=False)
        identity.assign_project_role_to_user(place, user, identity.find_role(role, ignore_missing=False))
        return user

    yield make
    for user in made:
        identity.delete_user(user)


@pytest.fixture
def login(lab_environment: dict[str, str], tmp_path: Path) -> Login:
    """Writes a clouds.yaml whose entries are the lab's but for their login; gives the variables that name it."""
    clouds = yaml.safe_load(Path(lab_environment["OS_CLIENT_CONFIG_FILE"]).read_text())["clouds"]
    path = tmp_path / "clouds.yaml"

    def write(**logins: dict[str, Any]) -> dict[str, str]:
        entries = {name: {**clouds["lab"], **entry} for name, entry in logins.items()}
        for entry in entries.values():
            entry["auth"] = {"auth_url": clouds["lab"]["auth"]["auth_url"], **entry["auth"]}
        path.write_text(yaml.safe_dump({"clouds": {**clouds, **entries}}))
        return {"OS_CLIENT_CONFIG_FILE": str(path)}

    return write


def password_login(user: Any, project: str) -> dict[str, Any]:
    """The entry of a user in clouds.yaml."""
    domains = {"user_domain_id": "default", "project_domain_id": "default"}
    return {"auth": {"username": user.name, "password": f"pw-{user.name}", "project_name": project, **domains}}


@pytest.mark.lab
def test_an_application_credential_and_a_user_with_role_service_alone(
    cellmove: Cellmove, boot: Callable[..., Server], new_user: Callable[[str, str], Any], login: Login
) -> None:
    operator, service = new_user("admin", "admin"), new_user("service", "service")
    variables = login(operator=password_login(operator, "admin"))
    config = OpenStackConfig(config_files=[variables["OS_CLIENT_CONFIG_FILE"]], load_envvars=False)
    own = Connection(config=config.get_one("operator"))
    credential = own.identity.create_application_credential(user=operator.id, name="cellmove")
    secret = {"application_credential_id": credential.id, "application_credential_secret": credential.secret}
    variables = login(
        operator={"auth_type": "v3applicationcredential", "auth": secret}, service=password_login(service, "service")
    )
    server = boot("credential", volumes=1)
    moved = cellmove(
        "migrate", server.id, "--cell", "cell2", "--confirm", "-f", "json",
        env={**variables, "OS_CLOUD": "operator", "CELLMOVE_SERVICE_CLOUD": "service"},
    ).json  # fmt: skip
    host = moved["target"]["host"]
    assert oracle.problems(oracle.snapshot(server.id), cell="cell2", host=host, flavor="m1.tiny", status="ACTIVE") == []


@pytest.mark.lab
def test_a_move_goes_on_after_its_token_was_revoked(
    cellmove: Cellmove, started: Callable[..., Started], boot: Callable[..., Server],
    new_user: Callable[[str, str], Any], login: Login,
) -> None:  # fmt: skip
    operator = new_user("admin", "admin")
    variables = {**login(operator=password_login(operator, "admin")), "OS_CLOUD": "operator"}
    identity = cloud.connect().identity
    server = boot("revoked")
    move = started(
        "migrate", server.id, "--cell", "cell2", "--confirm", "-f", "json", env=variables, pause_at=BEFORE_LONG_CALLS
    )
    for _place in BEFORE_LONG_CALLS:
        cloud.wait_for("the move to stop before a call", lambda: move.is_stopped)
        identity.update_user(operator.id, password=f"pw-{operator.name}")  # keystone revokes all tokens of the user
        os.kill(move.pid, signal.SIGCONT)
    outcome = move.end()
    assert outcome.code == 0, outcome.stderr
    host = outcome.json["target"]["host"]
    assert oracle.problems(oracle.snapshot(server.id), cell="cell2", host=host, flavor="m1.tiny", status="ACTIVE") == []


@pytest.mark.lab
def test_a_region_that_keystone_does_not_have_is_named(cellmove: Cellmove, boot: Callable[..., Server]) -> None:
    server = boot("region")
    unknown = cellmove("--os-region-name", "Elsewhere", "plan", server.id, "--dry-run", expect=2)
    assert "Region Elsewhere is not a valid region name" in unknown.stderr
    known = cellmove("--os-region-name", "RegionOne", "plan", server.id, "--dry-run", "--cell", "cell2")
    assert "--os-region-name RegionOne" in known.stdout + known.stderr


def opened(lab_environment: dict[str, str], **scope: str) -> Session:
    """A session of the lab's administrator."""
    auth_url, cacert = cloud.layout().auth_url, str(cloud.layout().ca)
    login = V3Password(auth_url, username="admin", password=PASSWORD, user_domain_name="Default", **scope)
    return Session(auth=login, verify=cacert)


def status(session: Session, service: str, method: str, path: str, **more: Any) -> int:
    """What an API answers."""
    filters = {"service_type": service, "interface": "internal", "region_name": "RegionOne"}
    return int(session.request(path, method, endpoint_filter=filters, raise_exc=False, **more).status_code)


@pytest.mark.lab
def test_the_apis_hold_new_policy_defaults_and_check_the_scope_of_a_token(
    cellmove: Cellmove, boot: Callable[..., Server], lab_environment: dict[str, str]
) -> None:
    """So every move of the lab's tests is one under these policies."""
    server = boot("policy")
    project = opened(lab_environment, project_name="admin", project_domain_name="Default")
    system = opened(lab_environment, system_scope="all")
    (port,) = cloud.connect().network.ports(device_id=server.id)
    questions = (
        ("compute", f"/servers/{server.id}", 403), ("network", f"/v2.0/ports/{port.id}", 404),
        ("image", "/v2/images", 403), ("placement", "/resource_providers", 403),
    )  # fmt: skip
    for service, path, refusal in questions:
        assert (status(project, service, "GET", path), status(system, service, "GET", path)) == (200, refusal), service
    binding = {"binding": {"host": "c2-host1"}}
    refused = status(project, "network", "POST", f"/v2.0/ports/{port.id}/bindings", json=binding)
    assert refused == 403, "neutron's bindings are for the role service alone"
    told = cellmove("plan", server.id, "--dry-run", expect=2, env={"OS_SYSTEM_SCOPE": "all"})
    assert "OS_SYSTEM_SCOPE asks for a token of the system" in told.stderr


@pytest.mark.lab
def test_variables_of_openstackclient_beside_a_cloud_and_instead_of_one(
    cellmove: Cellmove, boot: Callable[..., Server], tmp_path: Path
) -> None:
    server, layout = boot("variables"), cloud.layout()
    command = ("plan", server.id, "--dry-run", "--cell", "cell2")
    ca = str(layout.ca)
    beside = {"OS_REGION_NAME": "RegionOne", "OS_INTERFACE": "internal", "OS_CACERT": ca}
    cellmove(*command, env=beside)
    other = cellmove(*command, env={"OS_CACERT": certifi.where()}, expect=4)
    assert "certificate" in other.stderr
    unknown = cellmove(*command, env={"OS_REGION_NAME": "Elsewhere"}, expect=2)
    assert "Region Elsewhere is not a valid region name" in unknown.stderr
    variables = {
        "OS_AUTH_URL": layout.auth_url, "OS_USERNAME": "admin", "OS_PASSWORD": PASSWORD, "OS_PROJECT_NAME": "admin",
        "OS_USER_DOMAIN_NAME": "Default", "OS_PROJECT_DOMAIN_NAME": "Default", "OS_IDENTITY_API_VERSION": "3",
    }  # fmt: skip
    alone = {"OS_CLOUD": "", "OS_CLIENT_CONFIG_FILE": "", "HOME": str(tmp_path), **variables}
    cellmove(*command, env={**alone, **beside})
    wrong = cellmove(*command, env={**alone, **beside, "OS_PASSWORD": "wrong"}, expect=4)
    assert "keystone" in wrong.stderr
    assert "wrong" not in wrong.stderr
