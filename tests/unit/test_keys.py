"""Keys of a repository: made, added, listed, removed, rotated, opened, also when somebody dies in between."""

from collections.abc import Callable, Iterator
from functools import cache

import pyrage
import pytest

from criu_agent.errors import Corrupt, Failure, NotFound, Usage, WrongKey
from criu_agent.repo import keys, opening, rotation, wrap
from criu_agent.repo import secret as secrets_of
from criu_agent.repo.keys import Entries
from criu_agent.repo.opening import Opened
from criu_agent.repo.rotation import Rotation
from criu_agent.repo.secret import Secret
from criu_agent.repo.trust import NOBODY, Trust
from criu_agent.repo.wrap import Identity
from criu_agent.store.memory import MemoryStore
from tests.fakes.keys import NOW, OTHER_REPOSITORY, REPOSITORY

PASSPHRASE = "käse und brot".encode()
ALICE, BOB, EVE = (wrap.generate() for _ in range(3))


class Made:
    """A store with a repository's keys, and its first secret."""

    def __init__(self, *owners: Identity, passphrase: bytes = b"") -> None:
        self.store = MemoryStore()
        self.secret = secrets_of.new(REPOSITORY)
        first, *others = owners
        self.ids = [self._create(first)]
        self.ids += [self.add(one) for one in others]
        if passphrase:
            self.ids.append(keys.add(self.store, self.secret, passphrase=passphrase, label="p", created=NOW))

    def _create(self, one: Identity) -> str:
        recipient = wrap.recipient_of(one)
        return keys.create(self.store, self.secret, recipient=recipient, label="first", created=NOW)

    def add(self, one: Identity) -> str:
        return keys.add(self.store, self.secret, recipient=wrap.recipient_of(one), label="more", created=NOW)

    @property
    def trust(self) -> Trust:
        return trust(self.secret.current.signer)

    def open(self, *identities: Identity, by: Trust | None = None) -> Opened:
        return opening.with_identities(self.store, REPOSITORY, identities, by or self.trust)

    def rotate(self, secret: Secret | None = None, **options: object) -> Rotation:
        return rotation.rotate(self.store, secret or self.secret, created=NOW, **options)

    def entries(self, secret: Secret | None = None) -> Entries:
        return keys.entries(self.store, secret or self.secret)

    def snapshot(self) -> dict[str, bytes]:
        return dict(self.store.objects)


def trust(*signers: bytes, revoked: frozenset[bytes] = frozenset()) -> Trust:
    return Trust(signers=frozenset(signers), revoked=revoked)


@cache
def made_once() -> Made:
    """A repository of Alice and a passphrase: scrypt takes a second, so it is made once, and only read."""
    return Made(ALICE, passphrase=PASSPHRASE)


def copy_of_made() -> Made:
    made = Made(ALICE)
    made.store.objects = dict(made_once().store.objects)
    made.secret, made.ids = made_once().secret, list(made_once().ids)
    return made


# --- create, add, open


def test_the_key_opens_what_it_made() -> None:
    made = Made(ALICE)
    assert made.open(ALICE) == Opened(secret=made.secret, key_id=made.ids[0])
    assert list(made.store.objects) == [f"keys/{made.ids[0]}"]


def test_a_second_init_does_not_make_a_second_secret() -> None:
    made = Made(ALICE)
    with pytest.raises(Failure, match="keys already"):
        keys.create(made.store, secrets_of.new(REPOSITORY), recipient=wrap.recipient_of(BOB), label="", created=NOW)


def test_every_key_that_was_added_opens_the_same_secret() -> None:
    made = Made(ALICE, BOB)
    assert made.open(BOB).secret == made.open(ALICE).secret == made.secret
    assert made.open(EVE, BOB).key_id == made.ids[1]


def test_a_passphrase_opens_without_any_trusted_signer() -> None:
    found = opening.with_passphrase(made_once().store, REPOSITORY, PASSPHRASE, NOBODY)
    assert found == Opened(secret=made_once().secret, key_id=made_once().ids[1])


def test_a_wrong_passphrase_is_a_wrong_key() -> None:
    with pytest.raises(WrongKey, match="opens no key") as caught:
        opening.with_passphrase(made_once().store, REPOSITORY, b"guess", NOBODY)
    assert caught.value.exit_code == 12


def test_a_strange_key_is_a_wrong_key() -> None:
    with pytest.raises(WrongKey, match="opens no key"):
        Made(ALICE).open(EVE)


def test_a_key_without_any_trusted_signer_is_refused_with_a_hint() -> None:
    with pytest.raises(WrongKey, match="no signer is trusted") as caught:
        Made(ALICE).open(ALICE, by=NOBODY)
    assert "# signer:" in caught.value.hint


def test_a_key_whose_trusted_signer_is_another_is_refused_and_the_real_one_is_named() -> None:
    made = Made(ALICE)
    with pytest.raises(WrongKey, match=made.secret.current.signer.hex()):
        made.open(ALICE, by=trust(bytes(32)))


@pytest.mark.parametrize("both", [{}, {"recipient": "age1x", "passphrase": b"p"}])
def test_a_key_is_for_a_recipient_or_for_a_passphrase(both: dict[str, object]) -> None:
    with pytest.raises(Usage):
        keys.add(made_once().store, made_once().secret, label="", created=NOW, **both)


@pytest.mark.parametrize("recipient", ["age1", "age1qqqq", "ssh-ed25519 AAAA", str(ALICE), "x"])
def test_what_is_no_recipient_is_refused(recipient: str) -> None:
    made = Made(ALICE)
    with pytest.raises(Usage):
        keys.add(made.store, made.secret, recipient=recipient, label="", created=NOW)
    assert len(made.store.objects) == 1


@pytest.mark.parametrize("passphrase", [b"\xff\xfe", b""])
def test_a_passphrase_that_is_none_is_refused(passphrase: bytes) -> None:
    with pytest.raises(Usage):
        wrap.wrap_passphrase(b"plain", passphrase)


def test_a_repository_without_keys_says_so() -> None:
    with pytest.raises(Corrupt, match="has no keys"):
        opening.with_identities(MemoryStore(), REPOSITORY, [ALICE], trust(bytes(32)))


# --- list, remove


def test_the_list_shows_whose_the_keys_are() -> None:
    found = copy_of_made().entries()
    assert found.unreadable == {}
    assert [(one.by_passphrase, one.details.label, one.stale, one.generation) for one in found.keys] == [
        (one.by_passphrase, "p" if one.by_passphrase else "first", False, 1) for one in found.keys
    ]
    assert {one.details.recipient for one in found.keys} == {wrap.recipient_of(ALICE), ""}
    assert {one.details.created for one in found.keys} == {NOW}


def test_a_key_that_was_removed_opens_nothing_and_the_others_do() -> None:
    made = Made(ALICE, BOB)
    keys.remove(made.store, made.secret, made.ids[0])
    with pytest.raises(WrongKey):
        made.open(ALICE)
    assert made.open(BOB).secret == made.secret


def test_the_last_key_is_never_removed() -> None:
    made = Made(ALICE, BOB)
    keys.remove(made.store, made.secret, made.ids[1])
    with pytest.raises(Failure, match="the last key"):
        keys.remove(made.store, made.secret, made.ids[0])
    assert made.open(ALICE).secret == made.secret


def test_a_key_that_is_not_there_is_not_removed() -> None:
    with pytest.raises(NotFound):
        keys.remove(made_once().store, made_once().secret, "00" * 16)


def test_rubbish_among_the_keys_is_listed_does_not_hide_the_others_and_can_be_removed() -> None:
    made = Made(ALICE)
    made.store.put("keys/" + "00" * 16, b"rubbish")
    made.store.put("keys/no-id", b"rubbish")
    assert made.open(ALICE).secret == made.secret
    assert list(made.entries().unreadable) == ["00" * 16]
    keys.remove(made.store, made.secret, "00" * 16)
    assert made.entries().unreadable == {}


# --- rotate


def test_a_rotation_makes_new_keys_for_the_same_people() -> None:
    made = Made(ALICE, BOB)
    done = made.rotate()
    assert done.secret.current.number == 2
    assert {one.id for one in done.kept} == set(made.ids)
    assert done.dropped == ()
    assert set(made.store.objects).isdisjoint({f"keys/{one}" for one in made.ids})
    assert len(made.store.objects) == 2
    for one in (ALICE, BOB):
        assert made.open(one).secret == done.secret, "whoever trusts the old signer follows"
        assert made.open(one, by=trust(done.secret.current.signer)).secret == done.secret
    assert [one.stale for one in made.entries(done.secret).keys] == [False, False]


def test_rotations_follow_each_other_and_the_first_signer_is_enough() -> None:
    made, current = Made(ALICE), None
    for _ in range(4):
        current = made.rotate(current).secret
    assert current
    assert current.current.number == 5
    assert made.open(ALICE).secret == current


def test_who_is_dropped_cannot_open_the_new_generation() -> None:
    made = Made(ALICE, BOB)
    done = made.rotate(drop=[made.ids[1]])
    assert [one.id for one in done.dropped] == [made.ids[1]]
    assert made.open(ALICE).secret == done.secret
    with pytest.raises(WrongKey):
        made.open(BOB)


def test_a_dropped_key_that_is_put_back_into_the_store_stays_out() -> None:
    made = Made(ALICE, BOB)
    before = made.snapshot()
    done = made.rotate(drop=[made.ids[1]])
    made.store.objects |= before
    with pytest.raises(WrongKey):
        made.open(BOB)
    again = made.rotate(done.secret)
    assert len(again.kept) == 1
    assert len(made.store.objects) == 1


def test_a_passphrase_is_kept_if_it_is_given_and_else_dropped_and_named() -> None:
    made = copy_of_made()
    done = made.rotate(passphrases=[b"another", PASSPHRASE])
    assert len(done.kept) == 2
    assert opening.with_passphrase(made.store, REPOSITORY, PASSPHRASE, NOBODY).secret == done.secret
    dropped = made.rotate(done.secret)
    assert [one.by_passphrase for one in dropped.dropped] == [True]
    with pytest.raises(WrongKey):
        opening.with_passphrase(made.store, REPOSITORY, PASSPHRASE, made.trust)


def test_a_passphrase_that_was_dropped_does_not_open_what_is_left_over_of_it() -> None:
    made = copy_of_made()
    before = made.snapshot()
    made.rotate()
    made.store.objects |= before
    with pytest.raises(WrongKey, match="dropped when the keys were rotated"):
        opening.with_passphrase(made.store, REPOSITORY, PASSPHRASE, NOBODY)


def test_a_rotation_that_would_leave_no_key_is_refused_and_nothing_changes() -> None:
    made = copy_of_made()
    before = made.snapshot()
    with pytest.raises(Failure, match="no key would be left"):
        made.rotate(drop=[made.ids[0]])
    with pytest.raises(NotFound):
        made.rotate(drop=["00" * 16])
    assert made.store.objects == before


def test_whoever_has_an_old_secret_in_memory_cannot_add_remove_or_rotate() -> None:
    made = Made(ALICE, BOB)
    made.rotate()
    left = made.snapshot()
    there = next(iter(left)).removeprefix("keys/")
    for change in (lambda: made.add(EVE), made.rotate, lambda: keys.remove(made.store, made.secret, there)):
        with pytest.raises(Failure, match="changed just now"):
            change()
    assert made.store.objects == left


# --- somebody dies


class Dying(Exception):
    pass


class MortalStore(MemoryStore):
    """Dies before or after its n-th change."""

    def __init__(self, objects: dict[str, bytes], fatal: int, *, after: bool) -> None:
        super().__init__()
        self.objects = dict(objects)
        self.changes = 0
        self._fatal = fatal
        self._after = after

    def put(self, name: str, data: bytes | memoryview) -> bool:
        return self._mortal(lambda: super(MortalStore, self).put(name, data))

    def delete(self, name: str) -> None:
        self._mortal(lambda: super(MortalStore, self).delete(name))

    def _mortal(self, change: Callable[[], object]) -> bool:
        self.changes += 1
        if self.changes == self._fatal and not self._after:
            raise Dying
        result = change()
        if self.changes == self._fatal:
            raise Dying
        return bool(result)


def deaths(objects: dict[str, bytes], verb: Callable[[MemoryStore], object]) -> Iterator[MemoryStore]:
    """The store after a death before and after each change that the verb makes."""
    whole = MortalStore(objects, 0, after=False)
    verb(whole)
    assert whole.changes > 0
    for fatal in range(1, whole.changes + 1):
        for after in (False, True):
            store = MortalStore(objects, fatal, after=after)
            with pytest.raises(Dying):
                verb(store)
            yield store


def generation_for_all(made: Made, store: MemoryStore, owners: list[Identity]) -> Secret:
    """All owners open the repository, and all the same secret."""
    found = [opening.with_identities(store, REPOSITORY, [one], made.trust).secret for one in owners]
    assert all(one == found[0] for one in found)
    return found[0]


def test_wherever_a_rotation_dies_everybody_opens_the_same_and_the_next_one_repairs() -> None:
    owners = [ALICE, BOB, EVE]
    made = Made(*owners)
    seen = set()
    for store in deaths(made.snapshot(), lambda store: rotation.rotate(store, made.secret, created=NOW)):
        found = generation_for_all(made, store, owners)
        seen.add((found.current.number, len(store.objects)))
        listed = keys.entries(store, found)
        assert sum(not one.stale for one in listed.keys) == 3
        assert len(listed.keys) + len(listed.unreadable) == len(store.objects)
        done = rotation.rotate(store, found, created=NOW)
        assert len(store.objects) == 3
        assert generation_for_all(made, store, owners) == done.secret
        assert [one.stale for one in keys.entries(store, done.secret).keys] == [False] * 3
    assert {number for number, _ in seen} == {1, 2}
    assert (1, 5) in seen, "none died with some of the new keys written"
    assert (2, 4) in seen, "none died with some of the old keys deleted"


def test_wherever_a_removal_after_a_cut_off_rotation_dies_it_does_not_bring_old_keys_into_force() -> None:
    owners = [ALICE, BOB, EVE]
    made = Made(*owners)
    stores = list(deaths(made.snapshot(), lambda store: rotation.rotate(store, made.secret, created=NOW)))
    for left in stores:
        found = generation_for_all(made, left, owners)
        bobs = opening.with_identities(left, REPOSITORY, [BOB], made.trust).key_id
        for store in deaths(left.objects, lambda store: keys.remove(store, found, bobs)):  # noqa: B023 - used at once
            assert generation_for_all(made, store, [ALICE, EVE]) == found
            if f"keys/{bobs}" in store.objects:
                keys.remove(store, found, bobs)
            assert generation_for_all(made, store, [ALICE, EVE]) == found
            with pytest.raises(WrongKey):
                opening.with_identities(store, REPOSITORY, [BOB], made.trust)
            done = rotation.rotate(store, found, created=NOW)
            assert generation_for_all(made, store, [ALICE, EVE]) == done.secret


def test_a_key_that_was_added_to_a_cut_off_rotation_lasts() -> None:
    made = Made(ALICE, BOB)
    for store in deaths(made.snapshot(), lambda store: rotation.rotate(store, made.secret, created=NOW)):
        found = generation_for_all(made, store, [ALICE, BOB])
        keys.add(store, found, recipient=wrap.recipient_of(EVE), label="", created=NOW)
        assert generation_for_all(made, store, [ALICE, BOB, EVE]) == found
        rotation.rotate(store, found, created=NOW)
        generation_for_all(made, store, [ALICE, BOB, EVE])


def test_an_answer_that_was_lost_is_not_taken_for_somebody_elses_key() -> None:
    class Forgetful(MemoryStore):
        def put(self, name: str, data: bytes | memoryview) -> bool:
            super().put(name, data)
            return False

    made = Made(ALICE)
    store = Forgetful()
    store.objects = made.snapshot()
    done = rotation.rotate(store, made.secret, created=NOW)
    assert generation_for_all(made, store, [ALICE]) == done.secret


def test_a_name_that_is_taken_by_another_object_is_a_failure() -> None:
    class Taken(MemoryStore):
        def put(self, name: str, data: bytes | memoryview) -> bool:
            self.objects[name] = b"other"
            return False

    store = Taken()
    with pytest.raises(Failure, match="another key"):
        keys.create(store, secrets_of.new(REPOSITORY), recipient=wrap.recipient_of(ALICE), label="", created=NOW)


def test_a_rotation_whose_new_keys_are_deleted_meanwhile_leaves_the_old_ones() -> None:
    class Thief(MemoryStore):
        def put(self, name: str, data: bytes | memoryview) -> bool:
            made = super().put(name, data)
            if len(self.objects) == 4:
                del self.objects[name]
            return made

    made = Made(ALICE, BOB)
    store = Thief()
    store.objects = made.snapshot()
    with pytest.raises(Failure, match="changed just now"):
        rotation.rotate(store, made.secret, created=NOW)
    assert generation_for_all(made, store, [ALICE, BOB]) == made.secret


def test_an_old_key_that_cannot_be_deleted_does_not_undo_a_rotation() -> None:
    class Clinging(MemoryStore):
        def delete(self, name: str) -> None:
            raise Failure("access denied")

    made = Made(ALICE)
    store = Clinging()
    store.objects = made.snapshot()
    done = rotation.rotate(store, made.secret, created=NOW)
    assert generation_for_all(made, store, [ALICE]) == done.secret
    assert [one.stale for one in keys.entries(store, done.secret).keys] == [False, True]


# --- with age itself


def test_what_is_wrapped_is_an_age_file() -> None:
    made = Made(ALICE)
    (data,) = made.store.objects.values()
    wrapped = data[data.index(b"age-encryption.org/v1\n") :]
    assert pyrage.decrypt(wrapped, [pyrage.x25519.Identity.from_str(str(ALICE))]) == secrets_of.encode(made.secret)


def test_another_repository_with_the_same_keys_is_another_one() -> None:
    made = Made(ALICE)
    with pytest.raises(Corrupt, match="signature is wrong"):
        opening.with_identities(made.store, OTHER_REPOSITORY, [ALICE], made.trust)
