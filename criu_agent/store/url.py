"""From what the user calls a repository to its store."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from criu_agent.errors import Usage
from criu_agent.store.base import Store
from criu_agent.store.file import FileStore
from criu_agent.store.memory import MemoryStore

_HINT = "name a directory: a path, or file:///path"


def open_store(url: str) -> Store:
    """The store at a path, `file:///path`, or `memory:` (a new one each time). `Usage` for anything else."""
    if not url:
        raise Usage("the repository has an empty name", hint=_HINT)
    parts = urlsplit(url)
    # "/srv/a:b" and "a:b" are paths; only what has "://" or is memory: is a URL
    if url == "memory:":
        return MemoryStore()
    if "://" not in url:
        return FileStore(Path(url).absolute())
    if parts.scheme == "s3":
        raise Usage(f"this version cannot keep snapshots in S3 yet: {url}", hint=_HINT)
    if parts.scheme != "file":
        raise Usage(f"there is no kind of repository {parts.scheme!r}: {url}", hint=_HINT)
    path = unquote(parts.path)
    if parts.netloc or not path.startswith("/") or parts.query or parts.fragment or "\0" in path:
        raise Usage(f"{url} is not of the form file:///path", hint=_HINT)
    return FileStore(Path(path))
