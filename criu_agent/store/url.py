"""From what the user calls a repository to its store."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from criu_agent.errors import Usage
from criu_agent.store.base import Store
from criu_agent.store.file import FileStore
from criu_agent.store.memory import MemoryStore

_HINT = "name a directory, a path or file:///path, or a bucket, s3://BUCKET/PREFIX"


def open_store(url: str, *, endpoint_url: str = "", conditional: bool = True) -> Store:
    """The store at a path, `file:///path`, `s3://bucket/prefix`, or `memory:` (a new one each time).

    `endpoint_url` is the server of a bucket, empty for boto3's own choice (AWS_ENDPOINT_URL, the profile, AWS);
    `conditional=False` takes a bucket whose server knows no conditional put, for one host (store.s3). `Usage` for
    anything else. Nothing is made or asked yet, but for the credentials of a bucket.
    """
    if not url:
        raise Usage("the repository has an empty name", hint=_HINT)
    parts = urlsplit(url)
    # "/srv/a:b" and "a:b" are paths; only what has "://" or is memory: is a URL
    if url == "memory:":
        return MemoryStore()
    if "://" not in url:
        return FileStore(Path(url).absolute())
    if parts.scheme == "s3":
        return _open_bucket(url, endpoint_url, conditional)
    if parts.scheme != "file":
        raise Usage(f"there is no kind of repository {parts.scheme!r}: {url}", hint=_HINT)
    path = unquote(parts.path)
    if parts.netloc or not path.startswith("/") or parts.query or parts.fragment or "\0" in path:
        raise Usage(f"{url} is not of the form file:///path", hint=_HINT)
    return FileStore(Path(path))


def _open_bucket(url: str, endpoint_url: str, conditional: bool) -> Store:
    from criu_agent.store.s3 import S3Store  # boto3 and obstore take 0.3 s to import

    parts = urlsplit(url)
    if not parts.netloc or "@" in parts.netloc or ":" in parts.netloc or parts.query or parts.fragment:
        raise Usage("that is not of the form s3://BUCKET/PREFIX", hint=_HINT)
    return S3Store(parts.netloc, parts.path.strip("/"), endpoint_url=endpoint_url, conditional=conditional)
