"""Everything that a cellmove process imports on its way, for the process that the others are forked from."""

import gc
import importlib

for name in (
    "cellmove.adopt",
    "cellmove.cli",
    "cellmove.console",
    "cellmove.gateway",
    "cellmove.progress",
    "openstack.connection",
    "sqlalchemy.dialects.sqlite",
    "sqlite3",
):
    importlib.import_module(name)

gc.collect()
gc.freeze()  # what is here stays, and is shared
