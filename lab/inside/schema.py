"""Runs inside the lab's environment: bring one project's database to its newest schema.

python schema.py <project> <configuration file> [more of the project's own]
python schema.py nova --config-file <file> [--config-dir <folder>]
"""

import base64
import os
import sys


def keys(folder):
    """The keys of keystone's tokens and credentials; without any import of keystone."""
    for kind in ("fernet", "credential"):
        path = os.path.join(folder, kind)
        os.makedirs(path, mode=0o700, exist_ok=True)
        for number in "01":
            name = os.path.join(path, number)
            if not os.path.exists(name):
                with open(name, "wb") as key:
                    key.write(base64.urlsafe_b64encode(os.urandom(32)))


def keystone(file):
    """keystone-manage db_sync"""
    from keystone.cmd import cli

    cli.main(["keystone-manage", "--config-file", file, "db_sync"])


def bootstrap(file, password, region, url):
    """The first administrator, and the catalog's first entry."""
    from keystone.cmd import cli

    options = ["--bootstrap-password", password, "--bootstrap-region-id", region]
    for interface in ("public", "internal", "admin"):
        options += [f"--bootstrap-{interface}-url", url]
    cli.main(["keystone-manage", "--config-file", file, "bootstrap", *options])


def nova(*files):
    """The API database, and cell0 (the other cells are copies of it)."""
    from nova import monkey_patch

    monkey_patch.patch(backend="threading")
    from nova import config
    from nova.db import migration

    config.parse_args(["nova-manage", *files])
    migration.db_sync(database="api")
    migration.db_sync(database="main")


def placement(file):
    """placement-manage db sync"""
    from placement.cmd import manage

    sys.argv = ["placement-manage", "--config-file", file, "db", "sync"]
    manage.main()


def glance(file):
    """glance-manage db_sync"""
    from glance.cmd import manage

    sys.argv = ["glance-manage", "--config-file", file, "db_sync"]
    manage.main()


def cinder(file):
    """cinder-manage db sync"""
    from cinder.cmd import manage

    sys.argv = ["cinder-manage", "--config-file", file, "db", "sync"]
    manage.main()


def neutron(file):
    """neutron-db-manage upgrade heads"""
    sys.argv = ["neutron-db-manage", "--config-file", file, "upgrade", "heads"]
    from neutron.db.migration import cli

    cli.main()


PROJECTS = {
    function.__name__: function for function in (keys, keystone, bootstrap, nova, placement, glance, cinder, neutron)
}

if __name__ == "__main__":
    PROJECTS[sys.argv[1]](*sys.argv[2:])
