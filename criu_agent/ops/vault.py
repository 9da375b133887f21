"""The repository of this host's configuration: where ops put store, keys and repository together."""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from criu_agent import log, runs
from criu_agent.config import Config
from criu_agent.errors import Corrupt, Failure, NotFound, Usage, WrongKey
from criu_agent.linux import files
from criu_agent.ops import host
from criu_agent.repo import header, keyfile, keyring, keys, locks, opening, rotation, secret, trust, wrap, writer
from criu_agent.repo.floor import Floor, Seen
from criu_agent.repo.header import Header
from criu_agent.repo.opening import Opened
from criu_agent.repo.repository import Repository
from criu_agent.repo.writer import Writer
from criu_agent.store.archive import ArchiveStore
from criu_agent.store.base import Store
from criu_agent.store.url import open_store

Ask = Callable[[str], bytes]  # asks the person at the terminal for the passphrase of that repository
_KEYS = "keys"  # the lock of those who change keys


@dataclass(frozen=True, kw_only=True)
class Made:
    """What `init` has made. key_file is None where the key is a passphrase or somebody's recipient."""

    header: Header
    signer: str
    key_file: Path | None
    limits: tuple[str, ...]  # what the store cannot do, in words


def open_repository(config: Config, *, ask: Ask | None = None, older: bool = False, make: bool = True) -> Repository:
    """The repository; one in a local directory is made on first use, unless `make` says that it must be there.

    older: allow that the store has fallen behind what this host has seen of it. NotFound where there is none,
    WrongKey where this host has no key for it, Usage for a URL that no store serves, Corrupt if it is damaged.
    """
    store = open_store(config.repository, endpoint_url=config.endpoint_url)
    found = _header(config, store, make=make)
    if not found.conditional:
        store = open_store(config.repository, endpoint_url=config.endpoint_url, conditional=False)
    believed = trust.read(config.allowed_signers, found.id)
    opened = _open(config, store, found, believed, ask).secret
    floor = Floor(config.state_dir, found.id)
    floor.saw_generation(Seen(number=opened.current.number, value=opened.current.signer.hex()), older=older)
    return Repository(store, found, opened, floor, revoked=believed.revoked, older=older)


@contextmanager
def exported(config: Config, path: Path, *, ask: Ask | None = None) -> Iterator[Repository]:
    """The repository in an exported file. Errors as in `open_repository`."""
    with ArchiveStore(path) as store:
        found = header.read(store)
        believed = trust.read(config.allowed_signers, found.id)
        opened = _open(config, store, found, believed, ask).secret
        floor = Floor(config.state_dir, found.id)
        yield Repository(store, found, opened, floor, revoked=believed.revoked, exported=True)


def init(config: Config, *, recipients: tuple[str, ...] = (), passphrase: bytes = b"", label: str) -> Made:
    """Make the repository and its first keys: a key file on this host, unless it is for others or a passphrase.

    Failure if there is one already.
    """
    from criu_agent.store import probe

    for recipient in recipients:
        wrap.check_recipient(recipient)
    store = open_store(config.repository, endpoint_url=config.endpoint_url)
    with files.locked(config.keys):  # two who find no repository must not make two sets of keys
        try:
            found = header.read(store)
        except NotFound:
            found = None
        if found is not None and keyring.load(store, found.id).objects:
            raise Failure(f"there is a repository at {config.repository} already", hint="it is ready to be used")
        conditional, limits = _probe(config, store)
        if not conditional:
            store = open_store(config.repository, endpoint_url=config.endpoint_url, conditional=False)
        found = found or header.write(store, created=runs.now(), conditional=conditional)
        probe.clear(store)
        return _make_keys(config, store, found, recipients, passphrase, label, limits)


def writing(
    config: Config, repository: Repository, run_id: str, what: str, *, parent: str, hashes: bool = True
) -> AbstractContextManager[Writer]:
    """Write a snapshot of a run, as the only one (repo.writer). hashes: keep page hashes, for a run of this host."""
    kept = runs.directory(config, run_id) / "pages" if hashes else None
    return writer.writing(repository, run_id, holder=host.holder(what), lives=host.lives, parent=parent, hashes=kept)


def locked(repository: Repository, run_id: str, what: str) -> AbstractContextManager[None]:
    """Hold the lock of a run, so that nobody writes or deletes its snapshots meanwhile."""
    return locks.held(repository.registers, run_id, host.holder(what), lives=host.lives)


def key_entries(repository: Repository) -> keys.Entries:
    return keys.entries(repository.store, repository.secret)


def add_key(repository: Repository, *, recipient: str, passphrase: bytes, label: str) -> str:
    """Wrap the secret for one more: the new key's id."""
    with locked(repository, _KEYS, "key add"):
        return keys.add(
            repository.store,
            repository.secret,
            recipient=recipient,
            passphrase=passphrase,
            label=label,
            created=runs.now(),
        )


def remove_key(repository: Repository, key_id: str) -> None:
    with locked(repository, _KEYS, "key remove"):
        keys.remove(repository.store, repository.secret, key_id)


def rotate_keys(
    config: Config, repository: Repository, *, passphrases: Sequence[bytes], drop: Collection[str]
) -> rotation.Rotation:
    """A new generation of keys, which this host trusts from then on."""
    with locked(repository, _KEYS, "key rotate"):
        done = rotation.rotate(
            repository.store,
            repository.secret,
            created=runs.now(),
            passphrases=passphrases,
            drop=drop,
        )
    believe(config, done.secret.current.signer.hex(), repository_id=repository.id)
    return done


def believe(config: Config, signer: str, *, repository_id: str = "") -> Path:
    """Take that signer (64 hex digits) for genuine from now on: the file that says so."""
    if not repository_id:
        repository_id = header.read(open_store(config.repository, endpoint_url=config.endpoint_url)).id
    try:
        key = bytes.fromhex(signer)
    except ValueError as error:
        raise Usage(f"{signer!r} is no signer", hint="a signer has 64 hex digits") from error
    trust.add(config.allowed_signers, repository_id, key, f"noted on {os.uname().nodename}")
    return config.allowed_signers


def _header(config: Config, store: Store, *, make: bool) -> Header:
    """The repository's header, with at least one key to it."""
    try:
        found = header.read(store)
        if not config.local_repository or store.list(keyring.PREFIX):
            return found
    except NotFound as error:
        if not make or not config.local_repository:
            unmounted = (
                "if it lies on a file system that is not mounted: mount it; " if config.local_repository else ""
            )
            raise NotFound(
                f"there is no repository at {config.repository}",
                hint=f"{unmounted}to make one: criu-agent init -r {config.repository}",
            ) from error
    with files.locked(config.keys):  # two who find no repository must not make two sets of keys
        try:
            found = header.read(store)
        except NotFound:
            found = header.write(store, created=runs.now(), conditional=True)
        if not store.list(keyring.PREFIX):
            made = _make_keys(config, store, found, (), b"", os.uname().nodename, ())
            log.info("made the repository %s, its key is in %s", config.repository, made.key_file)
    return found


def _make_keys(
    config: Config,
    store: Store,
    found: Header,
    recipients: tuple[str, ...],
    passphrase: bytes,
    label: str,
    limits: tuple[str, ...],
) -> Made:
    """Everything that this host must remember first: a key object that nobody can open would lock all out."""
    if any(store.list(prefix) for prefix in header.CONTENTS):
        raise Corrupt("the repository has snapshots but no keys", hint="bring keys/ back from a copy")
    made = secret.new(found.id)
    signer = made.current.signer
    trust.add(config.allowed_signers, found.id, signer, f"made by init on {os.uname().nodename}")
    path: Path | None = None
    if not recipients and not passphrase:
        path = config.key_of(found.id)
        recipients = _recipients(config, path, signer)
    chosen = [("", passphrase)] if passphrase else []
    for recipient, words in [*chosen, *((one, b"") for one in recipients)]:
        add = keys.add if store.list(keyring.PREFIX) else keys.create
        add(store, made, recipient=recipient, passphrase=words, label=label, created=runs.now())
    return Made(header=found, signer=signer.hex(), key_file=path, limits=limits)


def _recipients(config: Config, path: Path, signer: bytes) -> tuple[str, ...]:
    """Those of the key file that the user has named, or of a new one.

    One of ours that is there already is from an init that was cut off, and opens nothing: it is moved aside.
    """
    if config.key_file is not None and path.exists():
        return tuple(map(wrap.recipient_of, keyfile.read(path).identities))
    files.make_private(path.parent)
    if path.exists():
        path.rename(path.with_name(path.name + ".old"))
    identity = wrap.generate()
    keyfile.make(path, identity, signer, created=runs.now())
    return (wrap.recipient_of(identity),)


def _open(config: Config, store: Store, found: Header, believed: trust.Trust, ask: Ask | None) -> Opened:
    path = config.key_of(found.id)
    if config.passphrase_file is not None and config.key_file is None:
        return opening.with_passphrase(store, found.id, keyfile.read_passphrase(config.passphrase_file), believed)
    if config.key_file is not None or path.exists():
        read = keyfile.read(path)
        return opening.with_identities(store, found.id, read.identities, believed.and_signers(read.signers))
    if ask is not None:
        return opening.with_passphrase(store, found.id, ask(config.repository), believed)
    hint = f"copy the key file of a host that has one, and name it with --key-file, or put it to {path}"
    if any(one.by_passphrase for one in keyring.load(store, found.id).objects):
        hint = (
            "say it at a terminal, and you are asked for the passphrase; "
            f"or name a file that has it, CRIU_AGENT_PASSPHRASE_FILE=...; or {hint}"
        )
    raise WrongKey(f"this host has no key of the repository {config.repository}", hint=hint)


def _probe(config: Config, store: Store) -> tuple[bool, tuple[str, ...]]:
    """Can several hosts share the store, and if not, why not."""
    if config.local_repository:
        return True, ()
    from criu_agent.store import probe

    found = probe.probe(store)
    return found.conditional, found.reasons
