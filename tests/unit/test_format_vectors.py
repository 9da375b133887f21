"""docs/format-vectors.json: bytes that every reader of the format must understand; a change of the format fails here.

It has a second reader, too, made of the text of docs/format.md and primitives alone.
"""

import json
from pathlib import Path

import pytest
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from criu_agent.repo import keyobject, opening, seal, wrap
from criu_agent.repo.envelope import open_manifest, open_register
from criu_agent.repo.keyobject import Details
from criu_agent.repo.secret import RunKeys, Secret, decode, encode, piece_name
from criu_agent.repo.trust import NOBODY, Trust
from criu_agent.store.memory import MemoryStore
from tests.fakes.keys import secret

VECTORS = json.loads((Path(__file__).parents[2] / "docs/format-vectors.json").read_text())
RUN = VECTORS["run_id"]
SECRET: Secret = decode(VECTORS["secret"].encode(), "the vector")


def run_keys() -> RunKeys:
    keys = SECRET.keys(RUN)
    assert keys is not None
    return keys


def test_the_secret() -> None:
    assert secret(2) == SECRET
    assert encode(SECRET).decode() == VECTORS["secret"]


def test_the_keys_of_a_run_and_the_name_of_a_piece() -> None:
    keys = run_keys()
    assert {purpose: getattr(keys, purpose).hex() for purpose in ("name", "pack", "manifest", "register")} == VECTORS[
        "keys of generation 2"
    ]
    assert piece_name(keys.name, bytes.fromhex(VECTORS["piece"]["plain"])) == VECTORS["piece"]["name"]


def test_a_pack() -> None:
    vector = VECTORS["pack"]
    plain, data = bytes.fromhex(vector["plain"]), bytes.fromhex(vector["object"])
    room = memoryview(bytearray(len(data)))
    assert seal._seal(run_keys(), vector["id"], [plain], bytes.fromhex(vector["salt"]), room) == data
    opener = seal.Opener(SECRET, RUN, vector["id"], len(plain), data)
    assert opener.open(seal.span(len(plain), 0, len(plain)), data[seal.HEADER :]) == plain


def test_a_register_and_a_manifest() -> None:
    vector = VECTORS["register"]
    assert open_register(SECRET, vector["name"], bytes.fromhex(vector["object"])) == vector["document"]
    vector = VECTORS["manifest"]
    snapshot = vector["name"].rpartition("/")[2]
    assert open_manifest(SECRET, RUN, snapshot, bytes.fromhex(vector["object"])) == vector["plain"].encode()


def test_key_objects() -> None:
    vector, other = VECTORS["key for a recipient"], VECTORS["key for a passphrase"]
    store = MemoryStore()
    store.objects = {f"keys/{one['id']}": bytes.fromhex(one["object"]) for one in (vector, other)}
    first = Trust(signers=frozenset({SECRET.generations[0].signer}), revoked=frozenset())
    identities = [wrap.identity(vector["identity"])]
    assert opening.with_identities(store, SECRET.repository, identities, first).secret == SECRET
    assert opening.with_passphrase(store, SECRET.repository, other["passphrase"].encode(), NOBODY).secret == SECRET
    parsed = keyobject.parse(SECRET.repository, vector["id"], bytes.fromhex(vector["object"]))
    assert parsed.read_details() == Details(**vector["details"])
    assert parsed.siblings == {vector["id"], other["id"]}


def derived(key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(key)


def context_of(kind: str, place: str) -> bytes:
    repository = bytes.fromhex(SECRET.repository)
    return f"criu-agent 2 {kind}\0".encode() + repository + len(place).to_bytes(2, "big") + place.encode()


def purpose_key(purpose: str) -> bytes:
    document = json.loads(VECTORS["secret"].split("\n", 1)[1])
    master = bytes.fromhex(document["generations"][1]["master"])
    return derived(master, bytes.fromhex(document["repository"]), f"criu-agent 2 {purpose} {RUN}".encode())


@pytest.mark.parametrize("kind", ["register", "manifest"])
def test_an_envelope_opened_by_the_text_of_the_format_alone(kind: str) -> None:
    vector = VECTORS[kind]
    place = vector["name"] if kind == "register" else f"snapshots/{RUN}"
    line, _, rest = bytes.fromhex(vector["object"]).partition(b"\n")
    line += b"\n"
    signer, signature, body = rest[:32], rest[32:96], rest[96:]
    message = b"criu-agent signature 2\n" + context_of(kind, place) + signer + blake3(line + body).digest()
    Ed25519PublicKey.from_public_bytes(signer).verify(signature, message)
    bound_to = context_of(kind, place) + body[:4]
    key = derived(purpose_key(kind), body[4:36], bound_to)
    content = AESGCM(key).decrypt(bytes(12), body[36:], bound_to)
    length = int.from_bytes(content[:4], "big")
    plain = zstandard.decompress(content[4 : 4 + length])
    assert set(content[4 + length :]) <= {0}
    assert len(content) == seal.padme(4 + length)
    if kind == "register":
        assert json.loads(plain) == vector["document"]
    else:
        assert plain.decode() == vector["plain"]


def test_a_pack_opened_by_the_text_of_the_format_alone() -> None:
    vector = VECTORS["pack"]
    data = bytes.fromhex(vector["object"])
    assert data[:18] == b"criu-agent pack 2\n"
    bound_to = context_of("pack", f"packs/{RUN}/{vector['id']}") + data[18:22]
    key = derived(purpose_key("pack"), data[22:54], bound_to)
    nonce = bytes(7) + bytes(4) + b"\1"
    assert AESGCM(key).decrypt(nonce, data[54:], bound_to).hex() == vector["plain"]
