"""What a program will load is found from the outside, and never outside of its root."""

import os
from pathlib import Path

import pytest

from criu_agent.linux import elf
from criu_agent.ops.environment import real


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("usr/lib/x", "etc"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "lib").symlink_to("/usr/lib")
    (tmp_path / "usr/lib/x/one.so").symlink_to("two.so")
    (tmp_path / "usr/lib/x/two.so").symlink_to("/lib/x/three.so")
    (tmp_path / "usr/lib/x/three.so").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "out").symlink_to("../../../../etc")
    return tmp_path


def test_links_lead_where_they_lead_in_the_box(root: Path) -> None:
    assert real(root, "/lib/x/one.so") == ("usr/lib/x/three.so", ["usr/lib/x/one.so", "usr/lib/x/two.so"])
    assert real(root, "/out") == ("etc", ["out"])
    assert real(root, "/usr/../lib/./x") == ("usr/lib/x", [])


@pytest.mark.parametrize("path", ["/loop", "/nothing", "/lib/x/three.so/deeper", "/out/passwd"])
def test_what_is_not_there_is_an_error(root: Path, path: str) -> None:
    with pytest.raises(OSError, match=r"No such|too many|Not a dir"):
        real(root, path)


def test_a_library_says_what_it_needs() -> None:
    program = os.open("/bin/sh", os.O_RDONLY)
    try:
        assert "libc.so.6" in elf.needed(program)[0]
    finally:
        os.close(program)


def test_what_is_damaged_needs_nothing(tmp_path: Path) -> None:
    whole = Path("/bin/sh").read_bytes()
    for number, data in enumerate((b"", whole[:63], whole[:100], whole[:4000], whole[:32] + b"\xff" * 500)):
        (tmp_path / str(number)).write_bytes(data)
        fd = os.open(tmp_path / str(number), os.O_RDONLY)
        assert elf.needed(fd) == ([], [])
        os.close(fd)


def test_the_loaders_cache_is_read() -> None:
    data = Path("/etc/ld.so.cache").read_bytes()
    found = elf.loader_cache(data)
    assert any(Path(path).is_file() for path in found["libc.so.6"])
    for broken in (b"", data[:100], data[: len(data) // 2], b"glibc-ld.so.cache1.1" + b"\xff" * 200):
        elf.loader_cache(broken)
