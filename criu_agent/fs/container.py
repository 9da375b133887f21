"""Read the file that `docker save` or `podman save` makes of a container image: docker's format, or OCI's.

What an image is called in here is its digest: the SHA-256 of its configuration, which has those of its layers.
Engines show it as the image's id, and it is the same in both formats.
"""

import errno
import gzip
import hashlib
import json
import os
import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import zstandard

from criu_agent.errors import Corrupt, Failure, NoSpace
from criu_agent.fs import layer

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_DOCUMENT = 16 << 20  # bytes of a JSON document
_LAYERS = 1024
_NAMES = 10_000  # in the archive
_PLAIN = 64 << 30  # bytes of a layer, or of the archive
_BLOCK = 1 << 20
_WINDOW = 128 << 20  # bytes of memory that a zstd frame may want
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}  # as OCI calls them, and the kernel


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an image says of the programs in it. env: "K=V"; workdir: "" if it has none."""

    env: tuple[str, ...]
    workdir: str
    layers: tuple[str, ...]  # digests of their tar files, the lowest first


class Archive:
    """An archive that is open. digest: of the image in it; config: its configuration, as it is."""

    def __init__(self, tar: tarfile.TarFile, spool: Path) -> None:
        self._tar = tar
        self._spool = spool
        self._members = _index(tar)
        self.config, self._layers = self._docker() if "manifest.json" in self._members else self._oci()
        self.digest = f"sha256:{hashlib.sha256(self.config).hexdigest()}"
        self.settings = settings(self.config)
        if len(self._layers) != len(self.settings.layers):
            raise Corrupt("the container image has another number of layers than it says")

    def unpack(self, root: Path) -> None:
        """Unpack all layers into the empty directory `root`. Corrupt if one is not what the image says that it is."""
        quota = layer.Quota()
        for name, digest in zip(self._layers, self.settings.layers, strict=True):
            with _spooled(self._open(name), self._spool) as (content, found):
                if found != digest:
                    raise Corrupt(f"a layer of the container image is changed: it is {found}, and not {digest}")
                layer.unpack(content, root, quota)

    def _docker(self) -> tuple[bytes, list[str]]:
        match self._json("manifest.json"):
            case [{"Config": str(config), "Layers": list(layers)}]:
                return self._read(config), [str(one) for one in layers]
            case [_, _, *_]:
                raise Failure("the archive has several container images", hint="save the one that is meant alone")
        raise Corrupt("the archive's manifest.json is no good")

    def _oci(self) -> tuple[bytes, list[str]]:
        if "index.json" not in self._members:
            raise Failure(
                "the file is no container image",
                hint="make one: podman save -o FILE IMAGE, or docker save -o FILE IMAGE",
            )
        found = self._json("index.json")
        for _ in range(3):  # an index may name another one
            if isinstance(found, dict) and "manifests" in found:
                found = self._json(_blob(_chosen(found["manifests"])))
        match found:
            case {"config": dict(config), "layers": list(layers)}:
                return self._read(_blob(config)), [_blob(one) for one in layers]
        raise Corrupt("the archive has no manifest of a container image")

    def _json(self, name: str) -> Any:  # noqa: ANN401 - whatever it is
        try:
            return json.loads(self._read(name))
        except (ValueError, RecursionError) as error:
            raise Corrupt(f"{name} in the archive is no JSON") from error

    def _open(self, name: str) -> IO[bytes]:
        member = self._members.get(os.path.normpath(name))
        for _ in range(2):  # old versions of docker have a link where a layer is there twice
            if member is not None and member.issym():
                member = self._members.get(os.path.normpath(f"{os.path.dirname(member.name)}/{member.linkname}"))  # noqa: PTH120
        file = self._tar.extractfile(member) if member is not None and member.isreg() else None
        if file is None:
            raise Corrupt(f"the archive has no file {name!r}")
        return file

    def _read(self, name: str) -> bytes:
        data = self._open(name).read(_DOCUMENT + 1)
        if len(data) > _DOCUMENT:
            raise Corrupt(f"{name} in the archive is too long")
        return data


@contextmanager
def opened(path: Path, spool: Path) -> Iterator[Archive]:
    """The archive in the file `path`; spool: a directory for what is unpacked on the way.

    Corrupt for one that is damaged, Failure for what is none.
    """
    with open(path, "rb") as file:
        compressed = _magic(file) in (_GZIP, _ZSTD[:2])
        with (
            _spooled(file, spool) if compressed else _as_it_is(file) as (plain, _),
            _translated(path.name),
            layer.opened(plain) as tar,
        ):
            yield Archive(tar, spool)


def settings(config: bytes) -> Settings:
    """What a configuration says. Corrupt if it is none."""
    try:
        document = json.loads(config)
        inner = document.get("config") or {}
        env, workdir = inner.get("Env") or [], inner.get("WorkingDir") or ""
        layers = document["rootfs"]["diff_ids"]
    except (ValueError, RecursionError, LookupError, AttributeError, TypeError) as error:
        raise Corrupt("the configuration of the container image is no good") from error
    good = isinstance(env, list) and isinstance(workdir, str) and isinstance(layers, list) and "\0" not in workdir
    if not good or not all(isinstance(one, str) and "\0" not in one for one in (*env, *layers)):
        raise Corrupt("the configuration of the container image is no good")
    if len(layers) > _LAYERS or not all(DIGEST.fullmatch(one) for one in layers):
        raise Corrupt("the configuration of the container image names its layers in no way that is known")
    _require_machine(document.get("architecture"))
    start = os.path.normpath("/" + workdir.strip("/")) if workdir else ""
    return Settings(env=tuple(env), workdir=start, layers=tuple(layers))


def _require_machine(architecture: object) -> None:
    machine = _MACHINES.get(str(architecture), str(architecture or ""))
    if machine not in ("", os.uname().machine):
        raise Failure(f"the container image is for {machine}, and this host is {os.uname().machine}")


def _chosen(manifests: object) -> object:
    """The one that is for this machine; attestations of a build are for none."""
    if not isinstance(manifests, list) or not all(isinstance(one, Mapping) for one in manifests):
        raise Corrupt("the archive's index is no good")
    fitting = [one for one in manifests if _fits(one.get("platform"))]
    if len(fitting) != 1:
        raise Failure(
            f"the archive has {len(fitting)} container images for this machine",
            hint="save the one that is meant alone",
        )
    return fitting[0]


def _fits(platform: object) -> bool:
    architecture = platform.get("architecture") if isinstance(platform, Mapping) else None
    return architecture is None or _MACHINES.get(str(architecture), architecture) == os.uname().machine


def _blob(descriptor: object) -> str:
    match descriptor:
        case {"digest": str(digest)} if DIGEST.fullmatch(digest):
            return f"blobs/sha256/{digest.removeprefix('sha256:')}"
    raise Corrupt("the archive names something that it does not describe")


def _index(tar: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    found: dict[str, tarfile.TarInfo] = {}
    while (member := tar.next()) is not None:
        found[os.path.normpath(member.name)] = member
        if len(found) > _NAMES:
            raise Corrupt(f"the archive has more than {_NAMES} files")
    return found


def _magic(file: IO[bytes]) -> bytes:
    start = file.read(2)
    file.seek(0)
    return start


@contextmanager
def _as_it_is(file: IO[bytes]) -> Iterator[tuple[IO[bytes], str]]:
    yield file, ""


@contextmanager
def _spooled(file: IO[bytes], spool: Path) -> Iterator[tuple[IO[bytes], str]]:
    """The content of a file, without its compression, in one that can seek, and the digest of that."""
    with tempfile.TemporaryFile(dir=spool) as plain:
        digest, left = hashlib.sha256(), _PLAIN
        with _translated("the container image"), _decompressed(file) as source:
            while data := source.read(_BLOCK):
                left -= len(data)
                if left < 0:
                    raise Corrupt("the container image is larger than any that is unpacked: 64 GiB")
                digest.update(data)
                plain.write(data)
            plain.seek(0)
        yield plain, f"sha256:{digest.hexdigest()}"


def _decompressed(file: IO[bytes]) -> Any:  # noqa: ANN401 - two kinds of files to read
    start = file.read(4)
    file.seek(0)
    if start.startswith(_GZIP):
        return gzip.GzipFile(fileobj=file)
    if start == _ZSTD:
        decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
        return decompressor.stream_reader(file, read_across_frames=True, closefd=False)
    return file


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, zstandard.ZstdError, gzip.BadGzipFile, zlib.error, EOFError, RecursionError) as error:
        raise Corrupt(f"{what} is damaged, or no container image: {error}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "free some space where CRIU_AGENT_STATE_DIR is"
            raise NoSpace(f"there is no room for {what}", hint=hint) from error
        raise Failure(f"cannot read {what}: {error.strerror or error}") from error
