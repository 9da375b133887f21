"""The file that says what may be restored on a host, and what it makes of a snapshot."""

from dataclasses import replace
from pathlib import Path

import pytest

from criu_agent.errors import HostCannot
from criu_agent.ops import host_policy
from criu_agent.ops.host_policy import Policy
from tests.unit.test_privileges import SOME

USUAL = replace(SOME, uids=(1000,) * 4, gids=(1000,) * 4, groups=(27,), capabilities=(0, 0, 0, 0x1FF, 0))
ROOT = replace(USUAL, uids=(0,) * 4, gids=(0,) * 4, groups=(), capabilities=(0, 0x3, 0x3, 0x1FF, 0))


def written(directory: Path, text: str) -> Path:
    path = directory / "policy.toml"
    path.write_text(text)
    path.chmod(0o644)
    return path


def denied(policy: Policy, recorded: object, **paths: list[str]) -> str:
    with pytest.raises(HostCannot) as refused:
        host_policy.require_allowed(
            policy,
            recorded=recorded,  # type: ignore[arg-type]
            through=paths.get("through", []),
            devices=paths.get("devices", []),
        )
    return refused.value.message


def test_without_the_file_everything_is_allowed(tmp_path: Path) -> None:
    policy = host_policy.read(tmp_path / "policy.toml")
    host_policy.require_allowed(policy, recorded=None, through=["/"], devices=["/dev/kvm"])


def test_all_keys_are_understood(tmp_path: Path) -> None:
    text = """
    uids = [0, "1000-1999"]
    gids = []
    capabilities = ["CAP_CHOWN", "CAP_KILL"]
    no_new_privs = true
    mounts = ["/srv/work", "/home"]
    devices = ["/dev/null"]
    """
    path = written(tmp_path, text)
    assert host_policy.read(path) == Policy(
        path=path,
        uids=(range(1), range(1000, 2000)),
        gids=(),
        capabilities=0x21,
        no_new_privs=True,
        mounts=("/srv/work", "/home"),
        devices=("/dev/null",),
    )


@pytest.mark.parametrize(
    "text",
    [
        "uids = 0",
        "uids = [-1]",
        "uids = [true]",
        'uids = ["root"]',
        'uids = ["5-4"]',
        'uids = ["1-"]',
        "gids = [4294967296]",
        'capabilities = ["KILL"]',
        'capabilities = "CAP_KILL"',
        "no_new_privs = 1",
        'mounts = ["srv"]',
        'mounts = ["/srv/../etc"]',
        'devices = [["/dev/null"]]',
        "user = [0]",
        "uids = [",
        "[uids]",
    ],
)
def test_what_cannot_be_understood_allows_nothing(tmp_path: Path, text: str) -> None:
    with pytest.raises(HostCannot, match=r"cannot understand .*/policy\.toml: "):
        host_policy.read(written(tmp_path, text))


def test_a_file_that_is_not_text_allows_nothing(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(HostCannot, match="cannot understand"):
        host_policy.read(tmp_path / "policy.toml")


def test_a_file_or_directory_that_others_can_write_allows_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, "")
    path.chmod(0o664)
    with pytest.raises(HostCannot, match="can be written by others"):
        host_policy.read(path)
    path.chmod(0o644)
    tmp_path.chmod(0o777)
    with pytest.raises(HostCannot, match="can be written by others"):
        host_policy.read(path)


def test_everything_that_is_too_much_is_said_at_once() -> None:
    policy = Policy(
        path=Path("/p"), uids=(range(1000, 2000),), gids=(range(1000, 2000), range(27, 28)), capabilities=1
    )
    host_policy.require_allowed(policy, recorded={2: frozenset({USUAL})}, through=["/x"], devices=[])
    said = denied(policy, {1: frozenset({ROOT}), 2: frozenset({USUAL, ROOT}), 3: frozenset({ROOT})})
    assert "CAP_DAC_OVERRIDE (process 1 and 2 more); gid 0 (process 1 and 2 more); uid 0 (process 1" in said
    assert "CAP_CHOWN" not in said


def test_a_saved_uid_a_group_and_an_inheritable_capability_count_too() -> None:
    saved = replace(USUAL, uids=(1000, 1000, 0, 1000))
    assert "uid 0" in denied(Policy(path=Path("/p"), uids=(range(1000, 1001),)), {1: frozenset({saved})})
    assert "gid 27" in denied(Policy(path=Path("/p"), gids=(range(1000, 1001),)), {1: frozenset({USUAL})})
    handed_on = replace(USUAL, capabilities=(1, 0, 0, 0, 0))
    assert "CAP_CHOWN" in denied(Policy(path=Path("/p"), capabilities=0), {1: frozenset({handed_on})})
    loose = replace(USUAL, no_new_privs=False)
    assert "no no_new_privs" in denied(Policy(path=Path("/p"), no_new_privs=True), {1: frozenset({loose})})


def test_a_snapshot_that_does_not_say_it_is_refused_where_it_matters() -> None:
    assert "does not say" in denied(Policy(path=Path("/p"), capabilities=0), None)
    host_policy.require_allowed(Policy(path=Path("/p"), mounts=("/x",)), recorded=None, through=["/x"], devices=[])


def test_paths_are_allowed_with_what_is_below_them() -> None:
    policy = Policy(path=Path("/p"), mounts=("/srv", "/home/me"), devices=("/dev/null",))
    host_policy.require_allowed(policy, recorded={}, through=["/srv", "/srv/a", "/home/me/x"], devices=["/dev/null"])
    said = denied(policy, {}, through=["/home", "/srvx", "/home/me"], devices=["/dev/zero"])
    assert said.endswith("writing to /home; writing to /srvx; the device /dev/zero")
    everywhere = Policy(path=Path("/p"), mounts=("/",))
    host_policy.require_allowed(everywhere, recorded={}, through=["/etc"], devices=[])
