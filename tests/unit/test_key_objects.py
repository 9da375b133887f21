"""Key objects of a hostile store: forged, changed, replayed, or made to cost time and memory."""

from collections.abc import Callable

import pytest

from criu_agent.errors import Corrupt, HostCannot, WrongKey
from criu_agent.repo import keyobject, keyring, keys, opening, rotation, wrap
from criu_agent.repo import secret as secrets_of
from criu_agent.repo.keyobject import Details, KeyObject
from criu_agent.repo.secret import Secret, encode, rotated
from criu_agent.repo.signed import Place, sign
from criu_agent.repo.trust import NOBODY, Trust
from criu_agent.store.memory import MemoryStore
from tests.fakes.keys import NOW, REPOSITORY, secret, stranger

ID, OTHER_ID = "0a" * 16, "0b" * 16
ALICE, EVE = wrap.generate(), wrap.generate()
DETAILS = Details(created=NOW, label="alice", recipient=wrap.recipient_of(ALICE))
BY_PASSPHRASE = Details(created=NOW, label="", recipient="")


def key_object(
    of: Secret, key_id: str = ID, *, wrapped: bytes | None = None, siblings: tuple[str, ...] = ()
) -> bytes:
    wrapped = wrapped if wrapped is not None else wrap.wrap(encode(of), DETAILS.recipient)
    return keyobject.encode(of, key_id, DETAILS, wrapped, by_passphrase=False, siblings=siblings)


def for_passphrase(of: Secret, key_id: str, wrapped: bytes) -> bytes:
    return keyobject.encode(of, key_id, BY_PASSPHRASE, wrapped, by_passphrase=True, siblings=())


def trust(*secrets: Secret, revoked: tuple[Secret, ...] = ()) -> Trust:
    return Trust(
        signers=frozenset(one.current.signer for one in secrets),
        revoked=frozenset(one.current.signer for one in revoked),
    )


def parsed(data: bytes, key_id: str = ID) -> KeyObject:
    return keyobject.parse(REPOSITORY, key_id, data)


def store_of(**objects: bytes) -> MemoryStore:
    store = MemoryStore()
    store.objects = {f"keys/{name}": data for name, data in objects.items()}
    return store


def opened(store: MemoryStore, by: Trust) -> Secret:
    return opening.with_identities(store, REPOSITORY, [ALICE], by).secret


@pytest.fixture
def unwrapped(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was decrypted or parsed, in order."""
    seen: list[str] = []

    def recording(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def recorded(*args: object) -> object:
            seen.append(name)
            return real(*args)

        return recorded

    for module, name in ((wrap, "unwrap"), (wrap, "unwrap_passphrase"), (keyobject, "from_json")):
        monkeypatch.setattr(module, name, recording(name, getattr(module, name)))
    monkeypatch.setattr(secrets_of, "from_json", recording("from_json", secrets_of.from_json))
    return seen


# --- changed


@pytest.mark.parametrize("generations", [1, 3])
def test_every_flipped_bit_is_noticed_before_anything_is_decrypted_or_parsed(
    generations: int, unwrapped: list[str]
) -> None:
    data = key_object(secret(generations), siblings=(ID, OTHER_ID))
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises((Corrupt, HostCannot)):
            parsed(bytes(damaged))
    assert unwrapped == []


def test_every_truncation_and_addition_is_noticed() -> None:
    data = key_object(secret(2))
    for length in range(len(data)):
        with pytest.raises(Corrupt):
            parsed(data[:length])
    with pytest.raises(Corrupt):
        parsed(data + b"\n")
    with pytest.raises(Corrupt, match="longer than"):
        parsed(data + bytes(keyobject.LIMIT))


def test_a_key_object_under_another_name_or_of_another_repository_is_refused() -> None:
    data = key_object(secret())
    with pytest.raises(Corrupt, match="signature is wrong"):
        parsed(data, OTHER_ID)
    with pytest.raises(Corrupt, match="signature is wrong"):
        keyobject.parse("f" * 32, ID, data)


def test_the_secret_of_another_object_is_refused_even_by_a_trusted_signer() -> None:
    for other in (secret(2), stranger(), secret(1, "f" * 32)):
        wrapped = wrap.wrap(encode(other), DETAILS.recipient)
        with pytest.raises(Corrupt, match="belongs to another"):
            opened(store_of(**{ID: key_object(secret(), wrapped=wrapped)}), trust(secret()))


def signed_body(body: bytes) -> bytes:
    place = Place(kind="key", repository=REPOSITORY, name=f"keys/{ID}", what="it")
    return sign(place, secret().seed, body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        bytes(4),
        b"\0\0\0\x01",
        b"\0\0\0\x01" + secret().current.signer,
        b"\0\0\0\x01" + bytes(32) + b"\1\0\0" + bytes(4),
        b"\0\0\0\x81" + secret().current.signer * 129,
        b"\xff\xff\xff\xff" + secret().current.signer,
        b"\0\0\0\x01" + secret().current.signer + b"\0\0\0" + bytes(4),
        b"\0\0\0\x01" + secret().current.signer + b"\3\0\0" + bytes(4),
        b"\0\0\0\x01" + secret().current.signer + b"\1\xff\xff" + bytes(0xFFFF * 16 + 4)[:100_000],
        b"\0\0\0\x01" + secret().current.signer + b"\1\0\1" + bytes(4),
        b"\0\0\0\x01" + secret().current.signer + b"\1\0\0" + b"\xff\xff\xff\xff{}",
        b"\0\0\0\x02" + bytes(32) + secret().current.signer + bytes(64) + b"\1\0\0" + bytes(4),
    ],
)
def test_a_body_of_another_shape_is_corrupt_even_if_it_is_signed(body: bytes) -> None:
    with pytest.raises(Corrupt):
        parsed(signed_body(body))


@pytest.mark.parametrize("recipient", ["", "x"])
def test_details_must_fit_the_kind(recipient: str) -> None:
    data = keyobject.encode(
        secret(),
        ID,
        Details(created=NOW, label="", recipient=recipient),
        b"",
        by_passphrase=bool(recipient),
        siblings=(),
    )
    with pytest.raises(Corrupt, match="for a recipient and a passphrase, or for neither"):
        parsed(data).read_details()


# --- forged


def test_a_stranger_slips_nobody_into_a_rotation() -> None:
    store = store_of(**{ID: key_object(secret())})
    eves = keyobject.encode(
        stranger(),
        OTHER_ID,
        Details(created=NOW, label="alice", recipient=wrap.recipient_of(EVE)),
        wrap.wrap(encode(secret()), wrap.recipient_of(EVE)),
        by_passphrase=False,
        siblings=(),
    )
    store.objects[f"keys/{OTHER_ID}"] = eves
    assert list(keys.entries(store, secret()).unreadable) == [OTHER_ID]
    done = rotation.rotate(store, secret(), created=NOW)
    assert [one.id for one in done.kept] == [ID]
    with pytest.raises(WrongKey):
        opening.with_identities(store, REPOSITORY, [EVE], trust(secret()))
    assert opened(store, trust(secret())) == done.secret


def test_what_a_stranger_wrapped_for_us_is_not_unwrapped(unwrapped: list[str]) -> None:
    store = store_of(**{ID: key_object(stranger())})
    with pytest.raises(WrongKey, match="no trusted signer"):
        opened(store, trust(secret()))
    assert unwrapped == []


def test_a_stranger_cannot_continue_our_line_of_signers() -> None:
    ours, theirs = secret(), rotated(stranger())
    first = theirs.generations[0]
    grafted = Secret(
        repository=REPOSITORY,
        generations=(ours.generations[0], theirs.generations[1]),
        seed=theirs.seed,
    )
    with pytest.raises(Corrupt, match="line of signers is broken"):
        parsed(key_object(grafted))
    assert not parsed(key_object(theirs)).trusted(trust(ours))
    assert parsed(key_object(theirs)).trusted(Trust(signers=frozenset({first.signer}), revoked=frozenset()))


def test_a_revoked_signer_vouches_for_nobody() -> None:
    old, new = secret(1), secret(2)
    newest = parsed(key_object(secret(3)))
    assert newest.trusted(trust(old))
    assert newest.trusted(trust(secret(3), revoked=(old, new)))
    assert not newest.trusted(trust(old, revoked=(new,)))
    assert not newest.trusted(trust(old, revoked=(old,)))
    assert not newest.trusted(trust(old, new, secret(3), revoked=(secret(3),)))
    assert newest.trusted(trust(new, revoked=(old,)))


def test_a_thief_with_an_old_seed_is_noticed_and_can_be_revoked() -> None:
    stolen = secret(1)
    real, false = rotated(stolen), rotated(stolen)
    store = store_of(**{ID: key_object(real, ID, siblings=(ID,)), OTHER_ID: key_object(false, OTHER_ID)})
    with pytest.raises(Corrupt, match="two generations 2") as caught:
        opened(store, trust(stolen))
    assert false.current.signer.hex() in str(caught.value)
    assert opened(store, trust(real, revoked=(stolen,))) == real
    assert opened(store, trust(stolen, revoked=(false,))) == real
    revoked = frozenset({false.current.signer})
    assert [one.id for one in keys.entries(store, real, revoked=revoked).keys] == [ID]
    keys.remove(store, real, OTHER_ID, revoked=revoked)
    assert opened(store, trust(stolen)) == real


def test_more_key_objects_than_a_reader_takes_are_refused_before_they_are_read() -> None:
    class Counting(MemoryStore):
        reads = 0

        def get(self, name: str, limit: int) -> bytes:
            self.reads += 1
            return super().get(name, limit)

    store = Counting()
    store.objects = {f"keys/{number:032x}": b"" for number in range(keyobject.COUNT + 1)}
    with pytest.raises(Corrupt, match="1025 key objects"):
        keyring.load(store, REPOSITORY)
    assert store.reads == 0


def test_a_generation_comes_into_force_with_its_last_object() -> None:
    old, new = secret(1), secret(2)
    objects = {ID: key_object(old), OTHER_ID: key_object(new, OTHER_ID, siblings=(OTHER_ID, "0c" * 16))}
    assert opened(store_of(**objects), trust(old)) == old
    objects["0c" * 16] = key_object(new, "0c" * 16, siblings=(OTHER_ID, "0c" * 16))
    assert opened(store_of(**objects), trust(old)) == new


def test_keys_that_were_removed_do_not_bring_an_unfinished_rotation_into_force() -> None:
    gone, missing = "0c" * 16, "0d" * 16
    old, new = secret(2), secret(3)
    store = store_of(
        **{
            ID: key_object(old, siblings=(ID, gone)),
            OTHER_ID: key_object(new, OTHER_ID, siblings=(OTHER_ID, missing)),
        }
    )
    assert opened(store, trust(old)) == old


# --- costly


def scrypt_file(log_n: int, tail: bytes = b"") -> bytes:
    """Has the form of one; no passphrase opens it."""
    sixteen, thirty_two = "A" * 22, "A" * 43
    header = f"age-encryption.org/v1\n-> scrypt {sixteen} {log_n}\n{thirty_two}\n--- {thirty_two}\n"
    return header.encode() + bytes(100) + tail


def test_many_costly_key_objects_do_not_keep_a_host_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hostile store has twenty that look newer; ours is tried first where its signer is trusted."""
    asked: list[bytes] = []

    def scrypt(wrapped: bytes, _passphrase: bytes) -> bytes | None:
        asked.append(wrapped)
        return encode(secret()) if wrapped.endswith(b"real") else None

    monkeypatch.setattr(wrap, "unwrap_passphrase", scrypt)
    theirs = rotated(stranger())
    ids = [f"{number:032x}" for number in range(21)]
    store = store_of(**{one: for_passphrase(theirs, one, scrypt_file(17)) for one in ids[1:]})
    store.objects[f"keys/{ids[0]}"] = for_passphrase(theirs, ids[0], scrypt_file(23))
    store.objects[f"keys/{ID}"] = for_passphrase(secret(), ID, scrypt_file(17, b"real"))
    assert opening.with_passphrase(store, REPOSITORY, b"p", trust(secret())).secret == secret()
    assert len(asked) == 1
    asked.clear()
    with pytest.raises(WrongKey) as caught:
        opening.with_passphrase(store, REPOSITORY, b"p", NOBODY)
    assert len(asked) == 16
    assert "too much work" in caught.value.hint


def test_a_passphrase_object_of_a_revoked_signer_is_not_tried(unwrapped: list[str]) -> None:
    store = store_of(**{ID: for_passphrase(secret(), ID, scrypt_file(10))})
    with pytest.raises(WrongKey):
        opening.with_passphrase(store, REPOSITORY, b"p", trust(secret(), revoked=(secret(),)))
    assert unwrapped == []
