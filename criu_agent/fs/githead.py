"""Which commit a git work tree has checked out, without running git (man gitrepository-layout)."""

import re
from collections.abc import Callable

LIMIT = 4 << 20  # bytes of a file that are looked at
_HASH = re.compile(r"[0-9a-f]{40,64}")
_REF = re.compile(r"ref: (refs/[^\s]+)")

Read = Callable[[str], bytes]  # the content of a file below the work tree; b"" if there is none


def read(content: Read) -> str:
    """ "main 1a2b3c4d", "main, no commit", "1a2b3c4d" where no branch is checked out, "no repository"."""
    head = content(".git/HEAD").decode(errors="replace").strip()
    if _HASH.fullmatch(head):
        return head[:8]
    match = _REF.fullmatch(head)
    if not match or ".." in match[1]:
        return "no repository"
    commit = content(f".git/{match[1]}").decode(errors="replace").strip() or _packed(content, match[1])
    name = match[1].removeprefix("refs/heads/")
    return f"{name} {commit[:8]}" if _HASH.fullmatch(commit) else f"{name}, no commit"


def _packed(content: Read, ref: str) -> str:
    lines = content(".git/packed-refs").decode(errors="replace").splitlines()
    return next((line.split(" ")[0] for line in lines if line.endswith(f" {ref}")), "")
