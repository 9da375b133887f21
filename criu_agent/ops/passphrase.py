"""The passphrase of a repository, on its way from the person who knows it to the supervisor that needs it."""

import os
from dataclasses import replace
from pathlib import Path

from criu_agent import log
from criu_agent.config import Config
from criu_agent.errors import Failure
from criu_agent.repo import header
from criu_agent.store.url import open_store


def hold(config: Config, passphrase: bytes) -> Config:
    """The configuration with a passphrase that is in no file, argument or variable.

    It lies in a memfd, which supervisors inherit (Config.descriptors): as long as they and this process live.
    """
    fd = os.memfd_create("passphrase", os.MFD_CLOEXEC)
    os.fchmod(fd, 0o600)  # it is made for everybody to read, which a passphrase file must not be
    os.write(fd, passphrase + b"\n")
    return replace(config, passphrase_file=Path(f"/proc/self/fd/{fd}"))


def is_needed(config: Config) -> bool:
    """Whether nothing but a passphrase, which nobody has told yet, opens the repository on this host.

    False also where that cannot be found out now, or there is no repository yet.
    """
    if config.key_file is not None or config.passphrase_file is not None:
        return False
    try:
        store = open_store(config.repository, endpoint_url=config.endpoint_url)
        found = header.read(store)
        if config.key_of(found.id).exists():
            return False
        from criu_agent.repo import keyring  # only now: its import takes a while

        return any(one.by_passphrase for one in keyring.load(store, found.id).objects)
    except Failure as error:
        log.info("whether a passphrase is needed is not known: %s", error.message)
        return False
