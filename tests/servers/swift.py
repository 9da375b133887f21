"""OpenStack Swift with s3api, all its servers in one process, one replica. It answers 501 to a conditional put.

tempauth wants a memcache client; it works with one that reaches no server.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.base import BUCKET, Processes, Server, answers, free_ports

_SWIFT = """
[swift-hash]
swift_hash_path_suffix = tests
[storage-policy:0]
name = only
default = yes
"""
_DEFAULT = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
swift_dir = {directory}
user = {user}
devices = {directory}/devices
mount_check = false
workers = 0
log_address = {directory}/no-syslog
fallocate_reserve = 0
"""
_STORAGE = """
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""
_PROXY = """
[pipeline:main]
pipeline = catch_errors cache s3api tempauth slo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{nowhere}
error_suppression_limit = 1000000000
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
s3_acl = false
[filter:tempauth]
use = egg:swift#tempauth
user_tests_tester = {secret} .admin
[filter:slo]
use = egg:swift#slo
"""
# Rings and all servers in one process: with one for each, and swift-ring-builder called nine times, most of the time
# goes into importing. What is not in /etc/swift must be said before the rest is imported.
_SERVERS = """
import os, sys
import eventlet
from swift.common import utils
utils.SWIFT_CONF_FILE = "swift.conf"
utils.eventlet_monkey_patch()
from eventlet import wsgi
from swift.common.ring import RingBuilder
from swift.common.wsgi import SwiftHttpProtocol, loadapp
utils.validate_configuration()
ports = dict(word.split("=") for word in sys.argv[1:])
for kind in ("account", "container", "object"):
    builder = RingBuilder(part_power=0, replicas=1, min_part_hours=0)
    builder.add_dev(dict(region=1, zone=1, ip="127.0.0.1", port=int(ports[kind]), device="d", weight=1))
    builder.rebalance()
    builder.get_ring().save(f"{kind}.ring.gz")
def serve(kind, port):
    app = loadapp(os.path.abspath(f"{kind}.conf"), global_conf={"log_name": kind})
    # without capitals: boto wants ETag, not Etag
    options = dict(protocol=SwiftHttpProtocol, capitalize_response_headers=False)
    wsgi.server(eventlet.listen(("127.0.0.1", int(port)), backlog=128), app, utils.NullLogger(), **options)
threads = [eventlet.spawn(serve, *pair) for pair in ports.items()]
for thread in threads:
    thread.wait()
"""


@contextmanager
def running(directory: Path) -> Iterator[Server]:
    """A Swift whose files are in the empty `directory`; it is ended in the end."""
    ports = dict(zip(("account", "container", "object", "proxy", "nowhere"), free_ports(5), strict=True))
    server = Server(
        endpoint=f"http://127.0.0.1:{ports['proxy']}", access_key="tests:tester", secret_key="test-secret-of-swift"
    )
    (directory / "devices/d").mkdir(parents=True)
    (directory / "swift.conf").write_text(_SWIFT)
    kinds = ("account", "container", "object")
    for kind in (*kinds, "proxy"):
        user = Path(f"/proc/{os.getpid()}").owner()
        default = _DEFAULT.format(port=ports[kind], directory=directory, user=user)
        own = _STORAGE if kind in kinds else _PROXY
        own = own.format(kind=kind, secret=server.secret_key, nowhere=ports["nowhere"])
        (directory / f"{kind}.conf").write_text(default + own)
    with Processes(directory) as processes:
        processes.start("swift", "python3", "-c", _SERVERS, *(f"{kind}={ports[kind]}" for kind in (*kinds, "proxy")))
        for kind in (*kinds, "proxy"):
            url = f"http://127.0.0.1:{ports[kind]}/"
            processes.await_true(lambda url=url: answers(url), f"the {kind} server")
        server.client().create_bucket(Bucket=BUCKET)
        yield server
