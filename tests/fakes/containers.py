"""Container images made by hand."""

import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any


def entry(name: str, content: bytes = b"", **facts: Any) -> tuple[tarfile.TarInfo, bytes]:
    """A member of a layer, of this user: type, mode, linkname, pax_headers as tarfile has them."""
    member = tarfile.TarInfo(name)
    member.size, member.uid, member.gid, member.mode, member.mtime = (
        len(content),
        os.getuid(),
        os.getgid(),
        0o644,
        1000,
    )
    for key, value in facts.items():
        setattr(member, key, value)
    return member, content


def directory(name: str, mode: int = 0o755) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, type=tarfile.DIRTYPE, mode=mode)


def symlink(name: str, to: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, type=tarfile.SYMTYPE, linkname=to)


def layer(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    return made.getvalue()


def config(*layers: bytes, **settings: Any) -> bytes:
    digests = [f"sha256:{hashlib.sha256(one).hexdigest()}" for one in layers]
    return json.dumps({"config": settings, "rootfs": {"type": "layers", "diff_ids": digests}}).encode()


def docker_archive(path: Path, *layers: bytes, configuration: bytes | None = None) -> Path:
    """As `docker save` makes it, the layers compressed."""
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    manifest = [{"Config": "config.json", "RepoTags": None, "Layers": names}]
    files = {
        "manifest.json": json.dumps(manifest).encode(),
        "config.json": configuration or config(*layers),
        **dict(zip(names, map(gzip.compress, layers), strict=True)),
    }
    path.write_bytes(layer(*(entry(name, content) for name, content in files.items())))
    return path
