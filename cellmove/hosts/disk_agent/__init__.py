"""The program that cellmove sends to compute hosts to read and write disks.

It is sent as a zip application (:mod:`cellmove.hosts.disk_archive`) and runs on a host with Python 3.6 or later and its standard
library. It imports nothing outside of this package, and only relatively: its name on a host is ``disk_agent``.

It answers requests from its standard input in their order, one frame each, and ends when its input does. All paths are relative
to nova's ``instances_path``. The agent walks them name by name and follows no symbolic link. It writes only to files whose
names carry the move's mark.
"""
