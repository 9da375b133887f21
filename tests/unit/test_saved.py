"""What a manifest says of the trees that a run wrote through to the host is checked before it is believed."""

from dataclasses import replace

import pytest

from criu_agent import config
from criu_agent.errors import Corrupt
from criu_agent.model import Host, Manifest
from criu_agent.ops import saved
from criu_agent.ops.saved import Captured

RUN = {"user": "0:0", "user_namespace": False, "tty": False, "stdin_open": False, "through": ["/work"]}
RESOURCES = {
    "run": {**RUN, "started": "2026-11-21T03:14:15.123456Z"},
    "terminal": {"kind": "pty", "unread": "", "modes": ""},
    "connections": [],
    "network": {"lock": "skip"},
    "mounts": {"through-0": "/work"},
}
MANIFEST = Manifest(
    run_id="0123456789ab",
    run_name="one",
    sequence=1,
    parent="",
    created="2026-11-21T03:14:15.123456Z",
    reason="",
    stopped=True,
    argv=("sh",),
    workdir="/work",
    labels={},
    tags=(),
    host=Host(hostname="h", boot_id="b", kernel="6", machine="x86_64", page_size=4096, criu="4.2"),
    resources=RESOURCES,
)


def with_captured(captured: object) -> Manifest:
    return replace(MANIFEST, resources={**RESOURCES, "captured": captured})


def test_a_snapshot_without_captured_trees_is_read() -> None:
    known = saved.read(config.load(), MANIFEST)
    assert known.captured == {}
    assert known.spec.exclude == ()


def test_captured_trees_and_globs_are_read() -> None:
    manifest = with_captured({"through-0": {"path": "/work", "excluded": ["*.log"], "later": 1}})
    assert saved.read(config.load(), manifest).captured == {"through-0": Captured(path="/work", excluded=("*.log",))}
    run = {**MANIFEST.resources["run"], "exclude": ["*.log"]}
    assert saved.read(config.load(), replace(MANIFEST, resources={**RESOURCES, "run": run})).spec.exclude == (
        "*.log",
    )


@pytest.mark.parametrize(
    "captured",
    [
        [],
        {"upper": {"path": "/x", "excluded": []}},
        {"through-": {"path": "/x", "excluded": []}},
        {"through-0/..": {"path": "/x", "excluded": []}},
        {"through-0": {"path": "x", "excluded": []}},
        {"through-0": {"path": "/a/../b", "excluded": []}},
        {"through-0": {"path": "/a\0", "excluded": []}},
        {"through-0": {"path": "/x"}},
        {"through-0": {"path": "/x", "excluded": "*"}},
        {"through-0": {"path": "/x", "excluded": ["/"]}},
        {"through-0": {"path": "/x", "excluded": [7]}},
        {"through-0": "/x"},
    ],
)
def test_captured_trees_that_no_checkpoint_has_written_are_corrupt(captured: object) -> None:
    with pytest.raises(Corrupt, match="changed"):
        saved.read(config.load(), with_captured(captured))
