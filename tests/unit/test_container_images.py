"""The layers of a container image are unpacked one over the other, and nothing outside of their root."""

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest
import zstandard

from criu_agent.errors import Corrupt, Failure
from criu_agent.fs import container
from criu_agent.fs.layer import Quota, unpack
from tests.fakes import containers
from tests.fakes.containers import directory, entry, symlink


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "around/root"
    made.mkdir(parents=True)
    return made


def over(root: Path, *members: tuple[tarfile.TarInfo, bytes], quota: Quota | None = None) -> None:
    unpack(io.BytesIO(containers.layer(*members)), root, quota or Quota())


def all_files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def test_everything_of_a_file_is_kept(root: Path) -> None:
    over(
        root,
        directory("./bin", 0o750),
        entry("./bin/tool", b"x" * 5000, mode=0o6755, pax_headers={"SCHILY.xattr.user.note": "yes"}),
        entry("./bin/other", type=tarfile.LNKTYPE, linkname="bin/tool"),
        symlink("./bin/link", "/etc/passwd"),
        entry("./pipe", type=tarfile.FIFOTYPE),
    )
    tool = (root / "bin/tool").stat()
    assert (tool.st_mode & 0o7777, tool.st_size, tool.st_nlink, tool.st_mtime) == (0o6755, 5000, 2, 1000)
    assert (root / "bin/other").stat().st_ino == tool.st_ino
    assert os.readlink(root / "bin/link") == "/etc/passwd"
    assert (root / "pipe").is_fifo()
    assert os.getxattr(root / "bin/tool", "user.note") == b"yes"
    assert ((root / "bin").stat().st_mode & 0o7777, (root / "bin").stat().st_mtime) == (0o750, 1000)


def test_a_layer_replaces_and_whites_out_what_is_below(root: Path) -> None:
    over(root, directory("a"), entry("a/1"), entry("a/2"), directory("b/deep"), entry("b/deep/x"), entry("c", b"old"))
    over(
        root,
        entry("a/.wh.1"),
        entry("b/new", b"of this layer"),
        entry("b/.wh..wh..opq"),
        directory("c"),
        entry("c/inside"),
        entry(".wh.never-there"),
    )
    assert all_files(root) == {"a", "a/2", "b", "b/new", "c", "c/inside"}
    over(root, entry("a", b"a file now"))
    assert (root / "a").read_bytes() == b"a file now"


def test_a_whiteout_does_not_touch_its_own_layer(root: Path) -> None:
    over(root, entry("etc/x", b"below"))
    over(root, entry("etc/x", b"above"), entry("etc/.wh.x"))
    assert (root / "etc/x").read_bytes() == b"above"


def test_what_is_in_dev_is_left_out(root: Path) -> None:
    over(root, directory("dev"), entry("dev/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3))
    assert all_files(root) == {"dev"}


HOSTILE = {
    "dots": [entry("../outside", b"!")],
    "dots inside": [entry("a/../../outside", b"!")],
    "a link in the way": [symlink("way", ".."), entry("way/outside", b"!")],
    "an absolute link in the way": [symlink("way", "/"), entry("way/outside", b"!")],
    "a link that is replaced by a directory and back": [
        symlink("a", ".."),
        directory("a/b"),
        entry("a/outside", b"!"),
    ],
    "a hard link out": [entry("outside", type=tarfile.LNKTYPE, linkname="../secret")],
    "a hard link through a link": [
        symlink("way", ".."),
        entry("mine", type=tarfile.LNKTYPE, linkname="way/secret"),
    ],
    "a hard link to nothing": [entry("x", type=tarfile.LNKTYPE, linkname="y")],
    "a hard link to a directory": [directory("d"), entry("x", type=tarfile.LNKTYPE, linkname="d")],
    "a hard link to itself": [entry("x", b"1"), entry("x", type=tarfile.LNKTYPE, linkname="x")],
    "a whiteout of what is above": [entry(".wh..", b"")],
    "a device": [entry("disk", type=tarfile.BLKTYPE, devmajor=8, devminor=0)],
    "overlayfs' own whiteout": [entry("gone", type=tarfile.CHRTYPE, devmajor=0, devminor=0)],
    "a root that is a link": [symlink("./", "/etc")],
    "a user that is none": [entry("x", pax_headers={"uid": "99999999999999"})],
    "far too deep": [directory("/".join("d" * 300))],
    "an endless header": [entry("x", pax_headers={"comment": "x" * (2 << 20)})],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_is_written_outside(root: Path, name: str) -> None:
    (root.parent / "secret").write_text("secret")
    with pytest.raises(Corrupt):
        over(root, *HOSTILE[name])
    assert set(os.listdir(root.parent)) == {"root", "secret"}
    assert (root.parent / "secret").read_text() == "secret"
    assert (root.parent / "secret").stat().st_nlink == 1


def test_a_link_of_a_layer_below_is_not_followed(root: Path) -> None:
    over(root, symlink("way", str(root.parent)))
    with pytest.raises(Corrupt, match="way/outside"):
        over(root, entry("way/outside", b"!"))
    with pytest.raises(Corrupt):
        over(root, entry("way/.wh.root"))
    assert os.listdir(root.parent) == ["root"]


def test_notes_of_overlayfs_are_left_out(root: Path) -> None:
    over(root, entry("x", pax_headers={"SCHILY.xattr.trusted.overlay.redirect": "/etc"}))
    assert os.listxattr(root / "x") == []


def test_sizes_and_counts_are_limited(root: Path) -> None:
    with pytest.raises(Corrupt, match="larger"):
        over(root, entry("x", b"123"), entry("y", b"456"), quota=Quota(size=5))
    with pytest.raises(Corrupt, match="larger"):
        over(root, entry("a"), entry("b"), entry("c"), quota=Quota(count=2))


def test_a_layer_that_is_cut_short_is_noticed(root: Path) -> None:
    whole = containers.layer(entry("x", b"1" * 4000))
    with pytest.raises(Corrupt):
        unpack(io.BytesIO(whole[:1500]), root, Quota())


LAYER = containers.layer(entry("etc/x", b"x"))


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress])
def test_an_archive_may_be_compressed(tmp_path: Path, root: Path, compress: object) -> None:
    path = containers.docker_archive(tmp_path / "image.tar", LAYER)
    path.write_bytes(compress(path.read_bytes()))  # type: ignore[operator]
    with container.opened(path, tmp_path) as archive:
        archive.unpack(root)
    assert (root / "etc/x").read_bytes() == b"x"


def test_a_layer_that_is_not_the_one_of_the_configuration_is_refused(tmp_path: Path, root: Path) -> None:
    other = containers.config(containers.layer(entry("etc/x", b"y")))
    path = containers.docker_archive(tmp_path / "image.tar", LAYER, configuration=other)
    with container.opened(path, tmp_path) as archive, pytest.raises(Corrupt, match="is changed"):
        archive.unpack(root)
    assert list(root.iterdir()) == []


BROKEN = {
    "no tar": b"nothing of the kind" * 100,
    "empty": b"",
    "half of a gzip": gzip.compress(LAYER)[:60],
    "another tar": containers.layer(entry("hello")),
    "no list": containers.layer(entry("manifest.json", b"{}")),
    "no JSON": containers.layer(entry("manifest.json", b"[" * 100_000)),
    "a layer that is not there": containers.layer(
        entry("manifest.json", b'[{"Config": "c", "Layers": ["l"]}]'), entry("c", containers.config(LAYER))
    ),
    "two images": containers.layer(entry("manifest.json", b'[{"Config": "c", "Layers": []}, {"Config": "d"}]')),
    "an index in a circle": containers.layer(
        entry("index.json", b'{"manifests": [{"digest": "sha256:' + b"a" * 64 + b'"}]}'),
        entry(f"blobs/sha256/{'a' * 64}", b'{"manifests": [{"digest": "sha256:' + b"a" * 64 + b'"}]}'),
    ),
    "another machine": containers.layer(
        entry("manifest.json", b'[{"Config": "c", "Layers": []}]'),
        entry("c", b'{"architecture": "s390x", "rootfs": {"diff_ids": []}}'),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_image_is_refused_in_words(tmp_path: Path, root: Path, name: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(BROKEN[name])
    with pytest.raises(Failure) as caught, container.opened(path, tmp_path) as archive:
        archive.unpack(root)
    assert caught.value.message
    assert list(root.iterdir()) == []
    assert set(os.listdir(tmp_path)) == {"around", "file"}


def test_what_an_image_says_of_its_programs() -> None:
    found = container.settings(containers.config(LAYER, Env=["PATH=/bin", "A=b=c"], WorkingDir="/srv//app/"))
    assert (found.env, found.workdir, len(found.layers)) == (("PATH=/bin", "A=b=c"), "/srv/app", 1)
    for broken in (b"[]", b"{}", b'{"rootfs": {"diff_ids": ["../x"]}}', b'{"config": {"Env": 1}}'):
        with pytest.raises(Corrupt):
            container.settings(broken)
