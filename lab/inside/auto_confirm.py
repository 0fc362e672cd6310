"""One round of nova-compute's periodic task that confirms by itself (`_poll_unconfirmed_resizes`), for one server.

    auto_confirm.py SERVER --config-file FILE ...

It is nova's own code in a process of its own, as nova's functional tests run it, so that no host has to be configured
anew; of the servers that wait on the host only the named one is looked at.
"""

import sys

from nova import config, context, objects
from nova.compute import manager
from nova.conf import CONF
from oslo_log import log

server, *files = sys.argv[1:]
objects.register_all()
config.parse_args(["nova-compute", *files])
log.setup(CONF, "nova")
known = objects.MigrationList.get_unconfirmed_by_dest_compute


def ours(*arguments, **more):
    """Those of the named server."""
    found = known(*arguments, **more)
    found.objects = [migration for migration in found.objects if migration.instance_uuid == server]
    sys.stdout.write(f"{len(found.objects)} waiting\n")
    return found


objects.MigrationList.get_unconfirmed_by_dest_compute = ours
manager.ComputeManager()._poll_unconfirmed_resizes(context.get_admin_context())
