"""The key objects of a store: which can be believed, and which generation is in force (docs/format.md C8)."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from criu_agent.errors import Corrupt, HostCannot, NotFound
from criu_agent.repo import keyobject
from criu_agent.repo.keyobject import KeyObject
from criu_agent.repo.trust import Trust
from criu_agent.store.base import Store

PREFIX = "keys/"
_ID = re.compile(r"[0-9a-f]{32}")
REMOVE_HINT = "whoever writes to the store may have put it there; `criu-agent key remove` deletes it"


@dataclass(frozen=True, kw_only=True)
class Keyring:
    """All key objects that are as they should be, and an error for each that is not, by its id."""

    objects: tuple[KeyObject, ...]
    unreadable: dict[str, Corrupt | HostCannot]

    def trusted(self, trust: Trust) -> list[KeyObject]:
        return [one for one in self.objects if one.trusted(trust)]


def load(store: Store, repository_id: str) -> Keyring:
    """What is below keys/. Corrupt if it is more than a reader takes."""
    ids = [name.removeprefix(PREFIX) for name in store.list(PREFIX)]
    ids = [one for one in ids if _ID.fullmatch(one)]
    if len(ids) > keyobject.COUNT:
        raise Corrupt(f"the repository has {len(ids)} key objects, more than {keyobject.COUNT}", hint=REMOVE_HINT)
    objects: list[KeyObject] = []
    unreadable: dict[str, Corrupt | HostCannot] = {}
    for key_id in ids:
        try:
            objects.append(keyobject.parse(repository_id, key_id, store.get(PREFIX + key_id, keyobject.LIMIT + 1)))
        except NotFound:  # deleted since it was listed
            continue
        except (Corrupt, HostCannot) as error:
            error.hint = error.hint or REMOVE_HINT
            unreadable[key_id] = error
    return Keyring(objects=tuple(objects), unreadable=unreadable)


def in_force(trusted: Iterable[KeyObject]) -> list[KeyObject]:
    """Those of the generation in force among trusted key objects; none if there are none.

    That is the highest generation of which all siblings are there, so a rotation comes into force with its last
    object and not in parts. If there is none, the lowest: then keys of it were removed since. Corrupt if two
    generations have the same claim.
    """
    groups: dict[tuple[bytes, ...], list[KeyObject]] = {}
    for one in trusted:
        groups.setdefault(one.signers, []).append(one)
    complete = {signers: group for signers, group in groups.items() if _is_complete(group)}
    if complete:
        return _only(complete, max(map(len, complete)))
    return _only(groups, min(map(len, groups))) if groups else []


def _is_complete(group: Sequence[KeyObject]) -> bool:
    there = {one.id for one in group}
    return all(one.siblings <= there for one in group)


def _only(groups: dict[tuple[bytes, ...], list[KeyObject]], generation: int) -> list[KeyObject]:
    found = [signers for signers in groups if len(signers) == generation]
    if len(found) > 1:
        raise Corrupt(
            f"there are two generations {generation} of the keys, by the signers "
            f"{' and '.join(sorted(signers[-1].hex() for signers in found))}",
            hint="somebody has used old keys: revoke the one that you do not know in allowed_signers",
        )
    return groups[found[0]]
