"""Which files of a tree are left alone: globs, as a user gives them."""

import re
from collections.abc import Callable, Iterable
from fnmatch import translate

Excluded = Callable[[str], bool]  # of a path in the tree


def nothing(_path: str) -> bool:
    """An Excluded that leaves nothing out."""
    return False


def matcher(globs: Iterable[str]) -> Excluded:
    """A glob without a slash in it is of names at any depth, one with a slash of paths from the tree's root on.

    What lies in an excluded directory is excluded, too. `*` stands for anything, a slash as well.
    """
    stripped = [one.strip("/") for one in globs]
    names = [translate(one) for one in stripped if "/" not in one]
    paths = [translate(one) for one in stripped if "/" in one]
    if not names and not paths:
        return nothing
    name, whole = (re.compile("|".join(some) if some else r"(?!)") for some in (names, paths))

    def excluded(path: str) -> bool:
        parts = path.split("/") if path else []
        if any(map(name.match, parts)):
            return True
        return bool(paths) and any(whole.match("/".join(parts[:end])) for end in range(1, len(parts) + 1))

    return excluded
