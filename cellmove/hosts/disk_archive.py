"""Builds the zip application that is sent to compute hosts, from the package :mod:`cellmove.hosts.disk_agent`.

``python3 -m cellmove.hosts.disk_archive`` writes it to standard output, to install it on a host (docs/stream.md).
"""

from __future__ import annotations

import io
import sys
import zipfile
from functools import cache
from importlib import resources

PACKAGE = "disk_agent"

MAIN = b"""import sys
from disk_agent.server import main
sys.exit(main(sys.argv[1:], __loader__.archive))
"""

BOOTSTRAP = (
    "import os,runpy,sys,tempfile;i=sys.stdin.buffer;n=int(i.readline().split()[2]);"
    'f=os.fdopen(os.memfd_create("cellmove-disks"),"w+b")if hasattr(os,"memfd_create")else tempfile.TemporaryFile();'
    'f.write(i.read(n));f.flush();runpy.run_path("/proc/self/fd/%d"%f.fileno(),run_name="__main__")'
)
"""The Python code on the host's command line: it reads the archive from its input and runs it. No other input follows before the
agent greets.

The archive lies in memory. Before Python 3.8 it lies in a temporary file without a name.
"""


@cache
def archive() -> bytes:
    """Return the zip application. Equal versions of cellmove build equal bytes: entries have no time and no compression."""
    package = resources.files(__package__).joinpath(PACKAGE)
    files = {f"{PACKAGE}/{file.name}": file.read_bytes() for file in package.iterdir() if file.name.endswith(".py")}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as result:
        for name, content in sorted({**files, "__main__.py": MAIN}.items()):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            result.writestr(entry, content)
    return buffer.getvalue()


if __name__ == "__main__":
    sys.stdout.buffer.write(archive())
