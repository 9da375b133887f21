"""Damages to what a store holds: what disks do, and what somebody does who can write to the store but has no key.

Deterministic: the same objects and the same seed give the same damages.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

_SECTOR = 512  # bytes
_TRIES = 1000
Changes = Mapping[str, bytes | None]


@dataclass(frozen=True, kw_only=True)
class Damage:
    """`changes` are the names that are damaged, to their new bytes, None for an object that is gone."""

    kind: str
    name: str  # of the object that it is about; a swap also changes another one
    description: str
    changes: Changes = field(repr=False)

    def apply(self, objects: Mapping[str, bytes]) -> dict[str, bytes]:
        """A copy of objects with the damage."""
        damaged = {**objects, **self.changes}
        return {name: data for name, data in damaged.items() if data is not None}


@dataclass(frozen=True, kw_only=True)
class Class:
    """The objects of one class by name, and what may be put in their place."""

    objects: Mapping[str, bytes]
    header: Sequence[int]  # where fields begin, in bytes from the start of an object
    older: Mapping[str, bytes]
    foreign: Mapping[str, bytes]


def damages(
    objects: Mapping[str, bytes],
    classes: Mapping[str, Sequence[int]],
    count: int,
    seed: int,
    *,
    older: Mapping[str, bytes] | None = None,
    foreign: Mapping[str, bytes] | None = None,
) -> Iterator[Damage]:
    """`count` damages, as many for each class as for any other; within a class all kinds in turn that it can have.

    A class is a prefix of names ("packs/", "config") with the offsets of its header's fields. `older` are earlier
    bytes of the same names; `foreign` are objects of another repository, by their names there. All change something,
    and no two have the same description. ValueError for a class of no object, for an object of no class, and when a
    class has no more different damages.
    """
    replayed = {name: data for name, data in (older or {}).items() if name in objects}
    found = [
        Class(objects=_of(prefix, objects), header=header, older=_of(prefix, replayed), foreign=_of(prefix, foreign))
        for prefix, header in classes.items()
    ]
    empty = [prefix for prefix, one in zip(classes, found, strict=True) if not one.objects]
    strays = objects.keys() - {name for one in found for name in one.objects}
    if empty or strays:
        raise ValueError(f"classes without an object: {empty}; objects without a class: {sorted(strays)}")
    return _in_turn([_stream(one, random.Random(f"{seed} {number}")) for number, one in enumerate(found)], count)


def _of(prefix: str, objects: Mapping[str, bytes] | None) -> dict[str, bytes]:
    return {name: data for name, data in sorted((objects or {}).items()) if name.startswith(prefix)}


def _in_turn(streams: Sequence[Iterator[Damage]], count: int) -> Iterator[Damage]:
    seen: set[str] = set()
    for number in range(count):
        new = (d for d in islice(streams[number % len(streams)], _TRIES) if d.description not in seen)
        damage = next(new, None)
        if damage is None:
            raise ValueError(f"only {number} different damages to these objects were found")
        seen.add(damage.description)
        yield damage


def _stream(one: Class, rng: random.Random) -> Iterator[Damage]:
    """Without end: each kind in turn, for an object by chance; the chosen places come before those by chance."""
    kinds = {kind: draw for kind, draw in KINDS.items() if _possible(kind, one)}
    turn = 0
    while True:
        for kind, draw in kinds.items():
            name = rng.choice(list(one.older if kind == "replay" else one.objects))
            if kind in ("flip", "truncation", "zeros") and not one.objects[name]:
                continue
            changes, description = draw(one, name, rng, turn)
            if any(data != one.objects.get(changed) for changed, data in changes.items()):
                yield Damage(kind=kind, name=name, description=description, changes=changes)
        turn += 1


def _possible(kind: str, one: Class) -> bool:
    several = len(one.objects) > 1
    return {"swap": several, "copy": several, "replay": bool(one.older), "foreign": bool(one.foreign)}.get(kind, True)


def _place(one: Class, name: str, rng: random.Random, turn: int) -> int:
    """A byte of a class's object: the first, the last, each field's first; then any."""
    size = len(one.objects[name])
    chosen = [0, size - 1, *(at for at in one.header if at < size)]
    return chosen[turn] if turn < len(chosen) else rng.randrange(size)


def _flip(one: Class, name: str, rng: random.Random, turn: int) -> tuple[Changes, str]:
    data, at, bit = bytearray(one.objects[name]), _place(one, name, rng, turn), rng.randrange(8)
    data[at] ^= 1 << bit
    return {name: bytes(data)}, f"{name} with bit {bit} of byte {at} of {len(data)} flipped"


def _truncation(one: Class, name: str, rng: random.Random, turn: int) -> tuple[Changes, str]:
    data, length = one.objects[name], _place(one, name, rng, turn)
    return {name: data[:length]}, f"{name} cut to {length} of {len(data)} bytes"


def _extension(one: Class, name: str, rng: random.Random, turn: int) -> tuple[Changes, str]:
    data, length = one.objects[name], rng.randint(1, 64)
    tails = {
        "a zero byte": b"\0",
        "itself": data,
        "1 MiB of zeros": bytes(1 << 20),
        f"{length} bytes by chance": rng.randbytes(length),
    }
    how = list(tails)[min(turn, 3)]
    return {name: data + tails[how]}, f"{name} followed by {how}"


def _zeros(one: Class, name: str, rng: random.Random, turn: int) -> tuple[Changes, str]:
    data = one.objects[name]
    begin = _place(one, name, rng, turn) // _SECTOR * _SECTOR
    end = min(begin + _SECTOR, len(data))
    return {name: data[:begin] + bytes(end - begin) + data[end:]}, f"{name} with zeros from byte {begin} to {end}"


def _swap(one: Class, name: str, rng: random.Random, _turn: int) -> tuple[Changes, str]:
    first, second = sorted((name, _other(one, name, rng)))
    return {first: one.objects[second], second: one.objects[first]}, f"{first} and {second} swapped"


def _copy(one: Class, name: str, rng: random.Random, _turn: int) -> tuple[Changes, str]:
    other = _other(one, name, rng)
    return {name: one.objects[other]}, f"{name} with the bytes of {other}"


def _deletion(_one: Class, name: str, _rng: random.Random, _turn: int) -> tuple[Changes, str]:
    return {name: None}, f"{name} deleted"


def _replay(one: Class, name: str, _rng: random.Random, _turn: int) -> tuple[Changes, str]:
    return {name: one.older[name]}, f"{name} as it was before"


def _foreign(one: Class, name: str, rng: random.Random, _turn: int) -> tuple[Changes, str]:
    other = rng.choice(list(one.foreign))
    return {name: one.foreign[other]}, f"{name} with the bytes of another repository's {other}"


def _other(one: Class, name: str, rng: random.Random) -> str:
    return rng.choice([other for other in one.objects if other != name])


KINDS: dict[str, Callable[[Class, str, random.Random, int], tuple[Changes, str]]] = {
    "flip": _flip,
    "truncation": _truncation,
    "extension": _extension,
    "zeros": _zeros,
    "swap": _swap,
    "copy": _copy,
    "deletion": _deletion,
    "replay": _replay,
    "foreign": _foreign,
}
