"""What reads and writes a repository: its secret, and the keys that are derived from it (docs/format.md C1 to C3).

Keys are plain bytes in memory: Python can neither lock nor wipe them. No repr shows one.
"""

import re
import secrets
from dataclasses import dataclass, field, replace

from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from criu_agent.errors import Corrupt, Failure
from criu_agent.repo.fields import Fields
from criu_agent.store.document import behind_version_line, from_json, to_json, version_line

KEY = 32  # bytes of every key, seed, signer and salt
GENERATIONS = 128
REPOSITORY_ID = re.compile(r"[0-9a-f]{32}")
_PIECE_NAME = 16  # bytes


@dataclass(frozen=True, kw_only=True)
class Generation:
    """`introduction` is the signature of the generation before it; empty for the first."""

    number: int
    master: bytes = field(repr=False)
    signer: bytes
    introduction: bytes


@dataclass(frozen=True, kw_only=True)
class Secret:
    """`generations` in order, the current one last; `seed` is the private key of its signer."""

    repository: str
    generations: tuple[Generation, ...]
    seed: bytes = field(repr=False)

    @property
    def current(self) -> Generation:
        return self.generations[-1]

    @property
    def signers(self) -> frozenset[bytes]:
        return frozenset(one.signer for one in self.generations)

    def keys(self, run_id: str, generation: int | None = None) -> "RunKeys | None":
        """The keys of a run, of the current generation or that one; None if there is no such generation."""
        number = self.current.number if generation is None else generation
        if not 1 <= number <= len(self.generations):
            return None
        return _run_keys(self.repository, self.generations[number - 1], run_id)


@dataclass(frozen=True, kw_only=True)
class RunKeys:
    """The keys of one run and generation, one for each purpose."""

    repository: str
    run_id: str
    generation: int
    name: bytes = field(repr=False)
    pack: bytes = field(repr=False)
    manifest: bytes = field(repr=False)
    register: bytes = field(repr=False)


def new(repository_id: str) -> Secret:
    """A first secret, of random bytes, for a repository with that id of 32 hex digits."""
    seed = secrets.token_bytes(KEY)
    first = Generation(number=1, master=secrets.token_bytes(KEY), signer=signer_of(seed), introduction=b"")
    return Secret(repository=repository_id, generations=(first,), seed=seed)


def rotated(old: Secret) -> Secret:
    """The secret with one generation more, which the old one's signer introduces. Failure if there are too many."""
    number = old.current.number + 1
    if number > GENERATIONS:
        raise Failure(
            f"the keys of this repository were rotated {GENERATIONS - 1} times, which is the limit",
            hint="make another repository and copy the snapshots",
        )
    seed = secrets.token_bytes(KEY)
    signer = signer_of(seed)
    next_one = Generation(
        number=number,
        master=secrets.token_bytes(KEY),
        signer=signer,
        introduction=private_key(old.seed).sign(introduction(old.repository, number, signer)),
    )
    return replace(old, generations=(*old.generations, next_one), seed=seed)


def introduction(repository_id: str, number: int, signer: bytes) -> bytes:
    """What the signer of generation number - 1 signs, so that those who trust it trust `signer`."""
    return b"criu-agent introduction 2\n" + bytes.fromhex(repository_id) + number.to_bytes(4, "big") + signer


def private_key(seed: bytes) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(seed)


def signer_of(seed: bytes) -> bytes:
    return private_key(seed).public_key().public_bytes_raw()


def context(kind: str, repository_id: str, place: str) -> bytes:
    """What an object is bound to: its kind, repository, and name (docs/format.md C1)."""
    name = place.encode("ascii")
    return b"".join(
        [
            f"criu-agent 2 {kind}\0".encode(),
            bytes.fromhex(repository_id),
            len(name).to_bytes(2, "big"),
            name,
        ]
    )


def object_key(purpose_key: bytes, salt: bytes, bound_to: bytes) -> bytes:
    """The key that encrypts the one object with that salt."""
    return _derive(purpose_key, salt, bound_to)


def piece_name(key: bytes, plain: bytes | bytearray | memoryview) -> str:
    """The name of a piece: equal bytes, equal names, and nothing to be learned from one without the key."""
    return blake3(plain, key=key).hexdigest(length=_PIECE_NAME)


def encode(secret: Secret) -> bytes:
    """The secret as it is wrapped in a key object."""
    generations = [
        {
            "number": one.number,
            "master": one.master.hex(),
            "signer": one.signer.hex(),
            "introduction": one.introduction.hex(),
        }
        for one in secret.generations
    ]
    document = {"generations": generations, "repository": secret.repository, "seed": secret.seed.hex()}
    return version_line("secret", 2) + to_json(document)


def decode(data: bytes, what: str) -> Secret:
    """The secret in `data`. Corrupt, which shows nothing of it, or HostCannot for another version."""
    fields = Fields(from_json(behind_version_line(data, "secret", 2, what), what), what)
    listed = fields.any("generations")
    if not isinstance(listed, list) or not 1 <= len(listed) <= GENERATIONS:
        raise Corrupt(f"{what} is changed: it has no generations, or too many")
    secret = Secret(
        repository=fields.text("repository"),
        generations=tuple(_generation(Fields(one, what), number) for number, one in enumerate(listed, 1)),
        seed=_bytes(fields, "seed", KEY),
    )
    if not REPOSITORY_ID.fullmatch(secret.repository) or signer_of(secret.seed) != secret.current.signer:
        raise Corrupt(f"{what} is changed: its parts do not belong together")
    return secret


def _generation(fields: Fields, number: int) -> Generation:
    if fields.integer("number") != number:
        raise Corrupt(f"{fields.what} is changed: a generation is missing")
    return Generation(
        number=number,
        master=_bytes(fields, "master", KEY),
        signer=_bytes(fields, "signer", KEY),
        introduction=_bytes(fields, "introduction", 0 if number == 1 else 64),
    )


def _bytes(fields: Fields, key: str, length: int) -> bytes:
    text = fields.text(key)
    if not re.fullmatch(rf"[0-9a-f]{{{2 * length}}}", text):
        raise Corrupt(f"{fields.what} is changed: {key!r} is not {2 * length} hex digits")
    return bytes.fromhex(text)


def _run_keys(repository_id: str, generation: Generation, run_id: str) -> RunKeys:
    salt = bytes.fromhex(repository_id)

    def derived(purpose: str) -> bytes:
        return _derive(generation.master, salt, f"criu-agent 2 {purpose} {run_id}".encode("ascii"))

    return RunKeys(
        repository=repository_id,
        run_id=run_id,
        generation=generation.number,
        name=derived("name"),
        pack=derived("pack"),
        manifest=derived("manifest"),
        register=derived("register"),
    )


def _derive(key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY, salt=salt, info=info).derive(key)
