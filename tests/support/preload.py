"""Everything that cellmove and the sandbox import on their way, for the server that they are forked from."""

import gc
import importlib
import warnings

for name in (
    "amqp",
    "cellmove.operations.adopt",
    "cellmove.cli",
    "cellmove.ui.console",
    "cellmove.gateway",
    "cellmove.ui.progress",
    "cellmove.sandbox.__main__",
    "cellmove.ui.schemas",
    "cellmove.operations.recover",
    "cellmove.steps",
    "openstack.connection",
    "oslo_messaging",
    "pymysql",
    "pytest",  # the script that a test runs in is read by its forks, too
    "sqlalchemy.dialects.mysql.pymysql",
    "sqlalchemy.dialects.sqlite",
    "sqlite3",
    "tenacity",
    "tests.support.commands",
    "tests.support.documents",
):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module(name)

gc.collect()
gc.freeze()  # what is here stays, and is shared
