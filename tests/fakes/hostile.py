"""Manifests that are rightly signed and hostile: what another version, or somebody who has the key, might write.

Each is made from an honest one, the two lines of JSON of a snapshot that could be restored.
"""

import copy
import json
import secrets
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import zstandard
from blake3 import blake3

from criu_agent.repo import envelope, manifest, seal
from criu_agent.repo.catalogue import Name
from criu_agent.repo.secret import KEY, Secret, object_key
from criu_agent.repo.signed import sign

Document = dict[str, Any]
PAGE = 4096
GONE = object()


@dataclass(frozen=True, kw_only=True)
class Honest:
    """An honest snapshot: its place and plain bytes."""

    secret: Secret
    run_id: str
    sequence: int
    plain: bytes

    def documents(self) -> tuple[Document, Document]:
        """Of the next snapshot of the run."""
        head, body = (json.loads(line) for line in self.plain.splitlines())
        return {**head, "sequence": self.sequence + 1}, body


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """objects to be put into the store; the manifest is `snapshot`."""

    snapshot: str
    objects: Mapping[str, bytes]


@dataclass(frozen=True, kw_only=True)
class Case:
    """true: it is large or strange, and no lie: it may be restored, if this host can take it."""

    name: str
    make: Callable[[Honest], Hostile]
    true: bool = False


def sealed(honest: Honest, content: bytes) -> bytes:
    """The object of a manifest with that content of its envelope, whatever it is."""
    keys = honest.secret.keys(honest.run_id)
    assert keys is not None
    place = envelope._manifest(honest.secret, honest.run_id, "")
    salt, bound_to = secrets.token_bytes(KEY), place.context + keys.generation.to_bytes(4, "big")
    cipher = envelope.AESGCM(object_key(keys.manifest, salt, bound_to))
    body = keys.generation.to_bytes(4, "big") + salt + cipher.encrypt(bytes(12), content, bound_to)
    return sign(place, honest.secret.seed, body)


def framed(frame: bytes) -> bytes:
    return len(frame).to_bytes(4, "big") + frame


def of_plain(honest: Honest, plain: bytes, objects: Mapping[str, bytes] | None = None) -> Hostile:
    return of_content(honest, framed(zstandard.ZstdCompressor(level=3).compress(plain)), objects)


def of_content(honest: Honest, content: bytes, objects: Mapping[str, bytes] | None = None) -> Hostile:
    data = sealed(honest, content)
    name = Name(run=honest.run_id, sequence=honest.sequence + 1, snapshot=blake3(data).hexdigest())
    return Hostile(snapshot=name.snapshot, objects={**(objects or {}), name.object: data})


def of_documents(honest: Honest, head: object, body: object, objects: Mapping[str, bytes] | None = None) -> Hostile:
    return of_plain(honest, line(head) + line(body), objects)


def line(document: object) -> bytes:
    return json.dumps(document).encode() + b"\n"


def changed(where: str, value: object) -> Callable[[Honest], Hostile]:
    """The honest one with another value at a path of keys: head/resources/run/user."""

    def make(honest: Honest) -> Hostile:
        head, body = honest.documents()
        document: Any = {"head": head, "body": body}
        *path, last = where.split("/")
        for key in path:
            document = document[key]
        at: Any = int(last) if isinstance(document, list) else last
        if value is GONE:
            del document[at]
        else:
            document[at] = copy.deepcopy(value)
        return of_documents(honest, head, body)

    return make


def renamed(kind: str, name: str) -> Callable[[Honest], Hostile]:
    """One of its images, trees or attachments under another name."""

    def make(honest: Honest) -> Hostile:
        head, body = honest.documents()
        body[kind] = {**body[kind], name: next(iter(body[kind].values()))}
        return of_documents(honest, head, body)

    return make


def zeros(where: str, size: int) -> Callable[[Honest], Hostile]:
    """A blob of nothing but zeros, as large as one may be."""
    return changed(where, {"size": size, "extents": [-1, 0, -(-size // PAGE)]})


def pack(honest: Honest, frames: list[bytes]) -> tuple[str, int, dict[str, bytes]]:
    """Id, padded length, and the object of a pack with these frames."""
    keys = honest.secret.keys(honest.run_id)
    assert keys is not None
    length = sum(map(len, frames))
    padded = seal.padme(length)
    pack_id = secrets.token_hex(16)
    data = bytes(
        seal.seal(keys, pack_id, [*frames, bytes(padded - length)], memoryview(bytearray(seal.sealed_size(padded))))
    )
    return pack_id, padded, {f"packs/{honest.run_id}/{pack_id}": data}


def stored(
    frame: bytes, plain: bytes, *, says: int | None = None, name: str = "", where: str = "body/attachments/scrollback"
) -> Callable[[Honest], Hostile]:
    """A blob whose one piece is that frame; the table says that it has the name and length of `plain`."""

    def make(honest: Honest) -> Hostile:
        head, body = honest.documents()
        keys = honest.secret.keys(honest.run_id)
        assert keys is not None
        pack_id, padded, objects = pack(honest, [frame])
        number, size = len(body["pieces"]), len(plain) if says is None else says
        piece = name or blake3(plain, key=keys.name).hexdigest(16)
        body["packs"].append([pack_id, padded])
        body["pieces"].append([piece, len(body["packs"]) - 1, 0, len(frame), size])
        document: Any = {"head": head, "body": body}
        *path, last = where.split("/")
        for key in path:
            document = document[key]
        document[last] = {"size": size, "extents": [number, 0, -(-size // PAGE)]}
        return of_documents(honest, head, body, objects)

    return make


def image(name: str, content: bytes) -> Callable[[Honest], Hostile]:
    """An image with that content."""
    return stored(zstandard.compress(content), content, where=f"body/images/{name}")


def index(*lines: object) -> Callable[[Honest], Hostile]:
    """A tree whose index has these lines behind its root."""
    root = {"path": "", "type": "directory", "mode": 0o755, "uid": 0, "gid": 0, "mtime": 0, "xattrs": {}}
    data = b"criu-agent tree 1\n" + line(root)
    data += b"".join(one if isinstance(one, bytes) else line({**root, **one}) for one in lines)  # type: ignore[dict-item]
    return stored(zstandard.compress(data), data, where="body/trees/upper/index")


def table(make: Callable[[Document], None]) -> Callable[[Honest], Hostile]:
    def changed_table(honest: Honest) -> Hostile:
        head, body = honest.documents()
        make(body)
        return of_documents(honest, head, body)

    return changed_table


def names(count: int) -> Iterator[str]:
    return (f"{number:032x}" for number in range(count))


def plain(make: Callable[[bytes, bytes], bytes]) -> Callable[[Honest], Hostile]:
    """Other bytes in the place of the two lines."""

    def other(honest: Honest) -> Hostile:
        head, body = honest.documents()
        return of_plain(honest, make(line(head), line(body)))

    return other


def content(make: Callable[[bytes], bytes]) -> Callable[[Honest], Hostile]:
    """Another content of the envelope, made of the plain bytes that it should have."""

    def other(honest: Honest) -> Hostile:
        head, body = honest.documents()
        return of_content(honest, make(line(head) + line(body)))

    return other


def with_resources(text: bytes) -> Callable[[Honest], Hostile]:
    """A resource more, of that JSON."""

    def make(honest: Honest) -> Hostile:
        head, body = honest.documents()
        begin, end = line(head).split(b'"resources": {', 1)
        return of_plain(honest, begin + b'"resources": {"more": ' + text + b", " + end + line(body))

    return make


def claims(size: int, window_log: int = 20) -> bytes:
    """A zstd frame that says it has that content size and needs that window, and has one block of a byte."""
    descriptor = 0b11000000  # 8 bytes of content size, a window descriptor
    block = (1 | 1 << 1 | size << 3 & 0xFFFFF8).to_bytes(3, "little") if size < 1 << 17 else b"\x03\x00\x02"
    return (
        struct.pack("<IBB", 0xFD2FB528, descriptor, (window_log - 10) << 3) + struct.pack("<Q", size) + block + b"x"
    )


def unsized(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(data)


ESCAPES = "\x1b]0;owned\x07\x1b[2J\r\n\u202e\udcff"
# What is right, and not fit to be printed as it is.
SHOWN = {
    "host/hostname": ESCAPES,
    "reason": ESCAPES,
    "tags": [ESCAPES],
    "argv": ["sh", ESCAPES],
    "labels": {ESCAPES: ESCAPES},
    "created": "9999-12-31T23:59:59.999999Z",
}


def harmless(honest: Honest) -> Hostile:
    head, body = honest.documents()
    return of_documents(honest, head, body)


def escapes(honest: Honest) -> Hostile:
    """One that could be restored, whose words would act on a terminal."""
    head, body = honest.documents()
    head |= {key: value for key, value in SHOWN.items() if "/" not in key}
    head["host"]["hostname"] = ESCAPES
    return of_documents(honest, head, body)


def honest_one(secret: Secret, run_id: str, sequence: int, plain_bytes: bytes) -> Honest:
    manifest.decode(plain_bytes, "it")
    return Honest(secret=secret, run_id=run_id, sequence=sequence, plain=plain_bytes)
