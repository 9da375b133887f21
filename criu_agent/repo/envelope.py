"""Manifests and registers as objects: JSON, compressed, padded, encrypted, signed (docs/format.md C5)."""

import secrets
import struct
from collections.abc import Mapping
from typing import Any

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from criu_agent.errors import Corrupt, Failure
from criu_agent.repo.seal import TAG, padme
from criu_agent.repo.secret import KEY, RunKeys, Secret, object_key
from criu_agent.repo.signed import OVERHEAD, Place, sign, verify
from criu_agent.store.document import from_json, to_json

MANIFEST_LIMIT = 64 << 20  # bytes of the object, and of the JSON
REGISTER_LIMIT = 64 << 10
_WINDOW = 64 << 20  # bytes that zstd may ask for to look back
_HEADER = struct.Struct(f">I{KEY}s")  # generation, salt
_FRAME = struct.Struct(">I")  # length of the frame
_NONCE = bytes(12)  # each key encrypts one message
_NO_SIGNERS: frozenset[bytes] = frozenset()


def seal_manifest(secret: Secret, run_id: str, plain: bytes) -> bytes:
    """The object of a manifest. Its BLAKE3 is its name. Failure if it is too large to be read again."""
    return _seal(secret, _manifest(secret, run_id, "the manifest"), plain, MANIFEST_LIMIT, secrets.token_bytes(KEY))


def open_manifest(
    secret: Secret,
    run_id: str,
    snapshot_id: str,
    data: bytes,
    *,
    most: int = MANIFEST_LIMIT,
    revoked: frozenset[bytes] = _NO_SIGNERS,
) -> bytes:
    """What was given to `seal_manifest`, of the object `snapshots/<run id>/<snapshot id>`; its first `most` bytes.

    `data` may be cut one byte after MANIFEST_LIMIT. Corrupt, or HostCannot for another version; nothing is
    decrypted, decompressed or parsed before the signature was checked.
    """
    what = f"the manifest of snapshot {snapshot_id}"
    place = _manifest(secret, run_id, what)
    return _unpack(_open(secret, place, data, MANIFEST_LIMIT, revoked, snapshot_id), place, MANIFEST_LIMIT, most)


def seal_register(secret: Secret, name: str, document: Mapping[str, Any]) -> bytes:
    """The bytes of the register `name` (heads/..., tags/..., locks/...); its second component is a run id.

    Every call makes other bytes. Failure if it is too large.
    """
    return _seal(secret, _register(secret, name), to_json(document), REGISTER_LIMIT, secrets.token_bytes(KEY))


def open_register(
    secret: Secret, name: str, data: bytes, *, revoked: frozenset[bytes] = _NO_SIGNERS
) -> dict[str, Any]:
    """What was given to `seal_register`. Corrupt, or HostCannot for another version, as `open_manifest`."""
    place = _register(secret, name)
    content = _open(secret, place, data, REGISTER_LIMIT, revoked, None)
    document = from_json(_unpack(content, place, REGISTER_LIMIT, REGISTER_LIMIT), place.what)
    if not isinstance(document, dict):
        raise Corrupt(f"{place.what} is changed: it is no JSON object")
    return document


def generation_of(data: bytes) -> int:
    """The generation of the keys of an envelope that was opened before."""
    at = data.index(b"\n") + 1 + OVERHEAD
    return int(_HEADER.unpack_from(data, at)[0])


def _manifest(secret: Secret, run_id: str, what: str) -> Place:
    return Place(kind="manifest", repository=secret.repository, name=f"snapshots/{run_id}", what=what)


def _register(secret: Secret, name: str) -> Place:
    return Place(kind="register", repository=secret.repository, name=name, what=f"the register {name}")


def _purpose_key(keys: RunKeys, place: Place) -> bytes:
    return keys.manifest if place.kind == "manifest" else keys.register


def _run_id(place: Place) -> str:
    return place.name.split("/")[1]


def _seal(secret: Secret, place: Place, plain: bytes, limit: int, salt: bytes) -> bytes:
    """`salt` must never be used twice: it makes the key, and the nonce is always the same."""
    keys = secret.keys(_run_id(place))
    if len(plain) > limit or keys is None:
        raise _too_large(place, limit)
    frame = zstandard.ZstdCompressor(level=3).compress(plain)
    content = _FRAME.pack(len(frame)) + frame
    content += bytes(padme(len(content)) - len(content))
    bound_to = place.context + keys.generation.to_bytes(4, "big")
    cipher = AESGCM(object_key(_purpose_key(keys, place), salt, bound_to))
    body = _HEADER.pack(keys.generation, salt) + cipher.encrypt(_NONCE, content, bound_to)
    sealed = sign(place, secret.seed, body)
    if len(sealed) > limit:
        raise _too_large(place, limit)
    return sealed


def _open(
    secret: Secret, place: Place, data: bytes, limit: int, revoked: frozenset[bytes], name: str | None
) -> bytes:
    accepted = secret.signers - revoked
    signer, body = verify(place, data, limit, accepted.__contains__)
    if name is not None and blake3(data).hexdigest() != name:
        raise Corrupt(f"{place.what} is another manifest")
    return _decrypt(secret, place, signer, body)


def _decrypt(secret: Secret, place: Place, signer: bytes, body: memoryview) -> bytes:
    if len(body) < _HEADER.size + TAG:
        raise Corrupt(f"{place.what} is truncated")
    number, salt = _HEADER.unpack_from(body)
    keys = secret.keys(_run_id(place), number)
    if keys is None or secret.generations[number - 1].signer != signer:
        raise Corrupt(f"{place.what} is changed: it is not of the generation that it names")
    bound_to = place.context + body[:4]
    cipher = AESGCM(object_key(_purpose_key(keys, place), salt, bound_to))
    try:
        return cipher.decrypt(_NONCE, body[_HEADER.size :], bound_to)
    except InvalidTag as error:
        raise Corrupt(f"{place.what} is changed: it does not decrypt") from error


def _unpack(content: bytes, place: Place, limit: int, most: int) -> bytes:
    """The first plain bytes of a content that was signed: its limits hold even for a signer that was careless."""
    if len(content) < _FRAME.size:
        raise Corrupt(f"{place.what} is truncated")
    (length,) = _FRAME.unpack_from(content)
    frame = memoryview(content)[_FRAME.size :][:length]
    if len(frame) < length:
        raise Corrupt(f"{place.what} is truncated")
    try:
        size = zstandard.get_frame_parameters(frame).content_size
        if size > limit:
            raise Corrupt(f"{place.what} is changed: it says that it is longer than {limit} bytes")
        decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
        if size > most:
            return decompressor.stream_reader(frame).read(most)
        return decompressor.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Corrupt(f"{place.what} is changed: {error}") from error


def _too_large(place: Place, limit: int) -> Failure:
    return Failure(f"{place.what} would be longer than {limit} bytes, which no reader takes")
