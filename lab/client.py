"""The lab as tests reach it: its layout, its API connections, and how to wait for something."""

import functools
import time

from lab.layout import load

POLL_SECONDS = 0.25
MICROVERSION = "2.95"


class Unexpected(Exception):
    """The cloud did not get to where the test wanted it."""


@functools.cache
def layout():
    """The lab of this checkout."""
    return load()


@functools.cache
def connect(cloud="lab"):
    """An openstacksdk connection: `lab` is the administrator, `lab-demo` an ordinary user."""
    import openstack

    files = [str(layout().home / "clouds.yaml")]
    config = openstack.config.OpenStackConfig(config_files=files, load_envvars=False)
    return openstack.connection.Connection(config=config.get_one(cloud=cloud), pool_executor=None)


def wait_for(what, check, seconds=60.0):
    """Poll until check() gives something true, which is returned."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > deadline:
            raise Unexpected(f"waited {seconds:.0f} s for {what}")
        time.sleep(POLL_SECONDS)


def raise_for(response):
    """Turn an HTTP error into an exception with the API's own words."""
    if response.status_code >= 400:
        raise Unexpected(f"{response.request.method} {response.url}: {response.status_code} {response.text[:500]}")
