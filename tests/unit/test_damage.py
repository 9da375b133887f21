"""The generator of damages: what it makes is spread, different, deterministic and a damage."""

import random
from collections import Counter
from itertools import pairwise

import pytest

from tests.fakes.damage import KINDS, Damage, damages

RNG = random.Random(1)
OBJECTS = {
    "config": b"criu-agent repository 2\n" + RNG.randbytes(100),
    **{f"packs/{run}/{number}": RNG.randbytes(5000 + number) for run in ("r", "s") for number in range(4)},
    **{f"snapshots/r/{number}": RNG.randbytes(900) for number in range(3)},
    "heads/r": RNG.randbytes(200),
    "heads/s": RNG.randbytes(200),
}
CLASSES = {"config": (11, 23), "packs/": (4, 36), "snapshots/": (24, 56, 120), "heads/": ()}
OLDER = {"heads/r": RNG.randbytes(200), "packs/gone/1": b"of a pack that is gone"}
FOREIGN = {"config": RNG.randbytes(120), "packs/r/1": RNG.randbytes(5000), "heads/x": RNG.randbytes(200)}


def some(count: int, seed: int = 1) -> list[Damage]:
    return list(damages(OBJECTS, CLASSES, count, seed, older=OLDER, foreign=FOREIGN))


def prefix(name: str) -> str:
    return next(prefix for prefix in CLASSES if name.startswith(prefix))


def test_every_class_and_every_kind_that_it_can_have_gets_its_share() -> None:
    made = some(2000)
    assert Counter(prefix(damage.name) for damage in made) == dict.fromkeys(CLASSES, 500)
    kinds = {one: {damage.kind for damage in made if prefix(damage.name) == one} for one in CLASSES}
    assert kinds == {
        "config": KINDS.keys() - {"swap", "copy", "replay"},
        "packs/": KINDS.keys() - {"replay"},
        "snapshots/": KINDS.keys() - {"replay", "foreign"},
        "heads/": KINDS.keys(),
    }
    assert {damage.name for damage in made} == OBJECTS.keys()


def test_all_change_something_and_are_told_apart() -> None:
    made = some(2000)
    assert len({damage.description for damage in made}) == 2000
    for damage in made:
        damaged = damage.apply(OBJECTS)
        changed = {name for name in OBJECTS if damaged.get(name) != OBJECTS[name]}
        assert changed == set(damage.changes)
        assert damaged.keys() <= OBJECTS.keys()
        assert {prefix(name) for name in changed} == {prefix(damage.name)}
        assert damage.name in damage.description


def test_the_seed_decides_and_nothing_else() -> None:
    first, again, other = some(300), some(300), some(300, seed=2)
    assert first == again
    assert [damage.description for damage in first] != [damage.description for damage in other]
    shuffled = dict(sorted(OBJECTS.items(), reverse=True))
    assert list(damages(shuffled, CLASSES, 300, 1, older=OLDER, foreign=FOREIGN)) == first
    assert some(100) == first[:100]


def test_the_ends_and_every_field_of_a_header_are_among_the_first() -> None:
    flipped: dict[str, set[int]] = {one: set() for one in CLASSES}
    cut: dict[str, set[int]] = {one: set() for one in CLASSES}
    for damage in some(200):
        (data, *_more) = damage.changes.values()
        if damage.kind == "flip":
            before = OBJECTS[damage.name]
            assert data is not None
            (at,) = (at for at in range(len(before)) if before[at] != data[at])
            assert (before[at] ^ data[at]).bit_count() == 1
            flipped[prefix(damage.name)].add(at if at < len(before) - 1 else -1)
        elif damage.kind == "truncation":
            assert data is not None
            assert OBJECTS[damage.name].startswith(data)
            cut[prefix(damage.name)].add(len(data) if len(data) < len(OBJECTS[damage.name]) - 1 else -1)
    for one, header in CLASSES.items():
        assert {0, -1, *header} <= flipped[one]
        assert {0, -1, *header} <= cut[one]


def test_what_is_put_in_the_place_of_an_object_is_what_it_says() -> None:
    made = some(2000)
    by_kind = {kind: [damage for damage in made if damage.kind == kind] for kind in KINDS}
    for swap in by_kind["swap"]:
        first, second = swap.changes
        assert (swap.changes[first], swap.changes[second]) == (OBJECTS[second], OBJECTS[first])
    for copy in by_kind["copy"]:
        assert copy.changes[copy.name] in [data for name, data in OBJECTS.items() if name != copy.name]
    runs = {(damage.name[:8], damage.description.split()[-1][:8]) for damage in by_kind["copy"]}
    assert {("packs/r/", "packs/s/"), ("packs/s/", "packs/r/"), ("packs/r/", "packs/r/")} <= runs
    assert {foreign.changes[foreign.name] for foreign in by_kind["foreign"]} == set(FOREIGN.values())
    assert [replay.changes for replay in by_kind["replay"]] == [{"heads/r": OLDER["heads/r"]}]
    assert sorted(deletion.name for deletion in by_kind["deletion"]) == sorted(OBJECTS)
    for extension in by_kind["extension"]:
        (data,) = extension.changes.values()
        assert data is not None
        assert data.startswith(OBJECTS[extension.name])


def test_what_has_no_class_and_a_class_of_nothing_are_not_passed_over() -> None:
    with pytest.raises(ValueError, match=r"without an object: \['tags/'\]"):
        damages(OBJECTS, CLASSES | {"tags/": ()}, 1, 1)
    with pytest.raises(ValueError, match=r"without a class: \['tags/1'\]"):
        damages(OBJECTS | {"tags/1": b""}, CLASSES, 1, 1)


def test_more_damages_than_there_are_is_an_error_and_no_endless_loop() -> None:
    made = damages({"a": b"1"}, {"a": ()}, 10_000, 1)
    with pytest.raises(ValueError, match="different damages"):
        list(made)


def test_empty_and_equal_objects_are_no_trouble() -> None:
    made = list(damages({"a/1": b"", "a/2": b"", "a/3": b"x"}, {"a/": (4,)}, 40, 1))
    assert len(made) == 40
    assert not any(damage.description == "a/1 and a/2 swapped" for damage in made)


def test_damages_are_made_one_at_a_time() -> None:
    """2,000 copies of a pack of 16 MiB would be 32 GiB."""
    made = damages({"a": bytes(1 << 20), "b": b"1" * (1 << 20)}, {"a": (), "b": ()}, 10**9, 1)
    assert all(first != second for first, second in pairwise([next(made) for _ in range(10)]))
