"""The repository of this host's configuration: where ops put the store and the repository together."""

from criu_agent.config import Config
from criu_agent.repo.repository import Repository, open_or_init
from criu_agent.store.url import open_store


def open_repository(config: Config) -> Repository:
    """Made on first use. Usage for a URL that no store serves, Corrupt or HostCannot as open_or_init."""
    return open_or_init(open_store(config.repository))
