"""A Ceph RGW gateway over one monitor and one OSD in memory: no systemd, no manager, no Python of Ceph's.

The OSD is in the map that the monitor begins with, and so nothing has to be said to a running cluster. cephx is on:
the gateway gets EACCES without. Debian's libraries look for their plugins where they would be installed.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.base import BUCKET, ROOT, Processes, Server, answers, free_ports

_CONF = """
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon}
mon initial members = a
public network = 127.0.0.0/8
ms bind ipv6 = false
keyring = {directory}/keyring
run dir = {directory}
admin socket =
log file =
mon cluster log file = /dev/null
mon data = {directory}/mon
mon data avail crit = 1
mon allow pool size one = true
paxos propose interval = 0.05
paxos min wait = 0.01
mon osd cache size = 10
osd data = {directory}/osd
osd journal = {directory}/osd/journal
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 2
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 4294967296
osd class dir = {library}/rados-classes
erasure code dir = {library}/ceph/erasure-code
plugin dir = {library}/ceph
rgw frontends = beast endpoint=127.0.0.1:{rgw}
rgw mime types file = /dev/null
rgw data = {directory}/rgw
rgw enable usage log = false
rgw enable gc threads = false
rgw enable lc threads = false
rgw dynamic resharding = false
"""


@contextmanager
def running(directory: Path) -> Iterator[Server]:
    """A gateway whose files are in the empty `directory`; it is ended in the end."""
    mon, rgw = free_ports(2)
    fsid = str(uuid.uuid4())
    library = next(iter(ROOT.glob("usr/lib/*-linux-gnu")), ROOT)
    (directory / "ceph.conf").write_text(
        _CONF.format(fsid=fsid, directory=directory, mon=mon, rgw=rgw, library=library)
    )
    for name in ("mon", "osd", "rgw"):
        (directory / name).mkdir()
    server = Server(endpoint=f"http://127.0.0.1:{rgw}", access_key="TESTKEY", secret_key="test-secret-of-ceph")
    with Processes(directory) as processes:
        processes.environment |= {"CEPH_CONF": str(directory / "ceph.conf")}
        _format(processes, fsid, mon)
        processes.start("mon", "ceph-mon", "-f", "-i", "a")
        processes.start("osd", "ceph-osd", "-f", "-i", "0")
        processes.start("rgw", "radosgw", "-f", "-n", "client.admin")
        processes.await_true(lambda: answers(server.endpoint), "the gateway")
        keys = ("--access-key", server.access_key, "--secret", server.secret_key)
        processes.run("radosgw-admin", "user", "create", "--uid", "tests", "--display-name", "tests", *keys)
        server.client().create_bucket(Bucket=BUCKET)
        yield server


def _format(processes: Processes, fsid: str, mon: int) -> None:
    """Make the monitor's and the OSD's stores."""
    everything = ("--cap", "mon", "allow *", "--cap", "osd", "allow *")
    processes.run(
        "ceph-authtool", "--create-keyring", "keyring", "--gen-key", "-n", "mon.", "--cap", "mon", "allow *"
    )
    processes.run("ceph-authtool", "keyring", "--gen-key", "-n", "client.admin", *everything)
    osd = ("--cap", "mon", "allow profile osd", "--cap", "osd", "allow *")
    processes.run("ceph-authtool", "keyring", "--gen-key", "-n", "osd.0", *osd)
    processes.run("monmaptool", "--create", "--addv", "a", f"[v2:127.0.0.1:{mon}]", "--fsid", fsid, "monmap")
    processes.run("osdmaptool", "--createsimple", "1", "osdmap")
    maps = ("--monmap", "monmap", "--osdmap", "osdmap", "--keyring", "keyring")
    processes.run("ceph-mon", "--mkfs", "-i", "a", *maps)
    processes.run("ceph-osd", "--no-mon-config", "--mkfs", "-i", "0", "--osd-uuid", str(uuid.uuid4()))
