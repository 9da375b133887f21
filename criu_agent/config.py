"""Paths and settings. The sole reader of the environment.

Flags win over the environment, the environment over `/etc/criu-agent/config.toml`.
"""

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from criu_agent.errors import Usage

_DESCRIPTOR = re.compile(r"/proc/self/fd/([0-9]{1,9})")
CONFIG_FILE = Path("/etc/criu-agent/config.toml")
POLICY_FILE = Path("/etc/criu-agent/policy.toml")  # there alone: no setting leads elsewhere (ops.host_policy)
_KEYS = frozenset(
    {
        "repository",
        "endpoint_url",
        "key_file",
        "passphrase_file",
        "state_dir",
        "runtime_dir",
        "prefix",
        "criu",
        "init",
    }
)

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # docker's, of an image that has none
_OF_HOST = frozenset({"LD_LIBRARY_PATH", "LD_PRELOAD", "NODE_PATH", "PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV"})
_FOR_TOOLS = frozenset({"PATH", "HOME", "LANG", "TZ", "TMPDIR", "TERM", "LD_LIBRARY_PATH"})


@dataclass(frozen=True, kw_only=True)
class Config:
    """Where things are on this host.

    state_dir holds what must survive a reboot, runtime_dir sockets and mount points (a tmpfs as a rule),
    repository the snapshots, endpoint_url the S3 service where it is not AWS's. key_file is None where none was
    named: then the key of a repository lies in `keys`. criu and init are the CRIU binary and the init of the
    box; a path that does not exist says itself what is missing when it is used.
    """

    state_dir: Path
    runtime_dir: Path
    repository: str
    endpoint_url: str
    key_file: Path | None
    passphrase_file: Path | None
    criu: Path
    init: Path

    @property
    def runs(self) -> Path:
        return self.state_dir / "runs"

    @property
    def keys(self) -> Path:
        """The keys that `init` made on this host, one file per repository."""
        return self.state_dir / "keys"

    def key_of(self, repository_id: str) -> Path:
        """Where the key of that repository is on this host."""
        return self.key_file or self.keys / f"{repository_id}.key"

    @property
    def seen(self) -> Path:
        """The newest state of each repository that this host has seen (repo.floor)."""
        return self.state_dir / "seen"

    @property
    def allowed_signers(self) -> Path:
        return self.state_dir / "allowed_signers"

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What a supervisor must inherit: where the passphrase is, if it is in no file (ops.passphrase)."""
        held = _DESCRIPTOR.fullmatch(str(self.passphrase_file or ""))
        return (int(held[1]),) if held else ()

    @property
    def local_repository(self) -> list[str]:
        """The directory of the repository, without symbolic links; none when it is not on this host."""
        path = unquote(self.repository.removeprefix("file://"))
        return [str(Path(path).resolve())] if path.startswith("/") else []


def _value(settings: Mapping[str, object], key: str, default: str) -> str:
    value = os.environ.get(f"CRIU_AGENT_{key.upper()}") or settings.get(key, default)
    if not isinstance(value, str):
        raise Usage(f"{CONFIG_FILE}: {key} must be a string")
    return value


def _program(settings: Mapping[str, object], key: str, ours: Path, name: str) -> Path:
    """The program of that setting: as set, else ours under the prefix, else the host's on PATH."""
    chosen = _value(settings, key, "")
    if chosen:
        return Path(chosen)
    on_path = None if ours.exists() else shutil.which(name)
    return Path(on_path) if on_path else ours


def _path(settings: Mapping[str, object], key: str, chosen: str | None) -> Path | None:
    """An empty variable says that there is none, whatever the configuration file has: see `child_environment`."""
    pinned = os.environ.get(f"CRIU_AGENT_{key.upper()}") == ""
    text = chosen or ("" if pinned else _value(settings, key, ""))
    return Path(text).absolute() if text else None


def load(*, repository: str | None = None, key_file: str | None = None, endpoint_url: str | None = None) -> Config:
    """The configuration of this process. `Usage` for a configuration file that cannot be understood."""
    settings = _read_file()
    prefix = Path(_value(settings, "prefix", "/opt/criu-agent"))
    # Without symbolic links: the box hides these paths, and a link on the way would show them under another name.
    state_dir = Path(_value(settings, "state_dir", "/var/lib/criu-agent")).resolve()
    return Config(
        state_dir=state_dir,
        runtime_dir=Path(_value(settings, "runtime_dir", "/run/criu-agent")).resolve(),
        repository=_rooted(repository or _value(settings, "repository", str(state_dir / "repository"))),
        endpoint_url=endpoint_url or os.environ.get("AWS_ENDPOINT_URL") or _value(settings, "endpoint_url", ""),
        key_file=_path(settings, "key_file", key_file),
        passphrase_file=_path(settings, "passphrase_file", None),
        criu=_program(settings, "criu", prefix / "criu/bin/criu", "criu"),
        init=_program(settings, "init", prefix / "bin/dumb-init", "dumb-init"),
    )


def _rooted(repository: str) -> str:
    """A relative path is of our working directory: a supervisor, which is given it, has another."""
    is_path = "://" not in repository and repository != "memory:"
    return str(Path(repository).resolve()) if is_path else repository


def _read_file() -> dict[str, object]:
    try:
        text = CONFIG_FILE.read_text(encoding="utf-8")
        import tomllib  # not before it is needed: few hosts have such a file, and every command would wait for it

        settings = tomllib.loads(text)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:  # of UTF-8 or of TOML
        raise Usage(f"cannot read {CONFIG_FILE}: {error}") from error
    unknown = sorted(set(settings) - _KEYS)
    if unknown:
        raise Usage(f"{CONFIG_FILE}: unknown setting {unknown[0]!r}", hint=f"known are: {', '.join(sorted(_KEYS))}")
    return settings


def child_environment(config: Config) -> dict[str, str]:
    """The environment of a supervisor: ours, with the settings in force pinned, so that it sees the same."""
    return {
        **os.environ,
        **({"AWS_ENDPOINT_URL": config.endpoint_url} if config.endpoint_url else {}),
        "CRIU_AGENT_STATE_DIR": str(config.state_dir),
        "CRIU_AGENT_RUNTIME_DIR": str(config.runtime_dir),
        "CRIU_AGENT_REPOSITORY": config.repository,
        "CRIU_AGENT_KEY_FILE": str(config.key_file or ""),
        "CRIU_AGENT_PASSPHRASE_FILE": str(config.passphrase_file or ""),
        "CRIU_AGENT_CRIU": str(config.criu),
        "CRIU_AGENT_INIT": str(config.init),
    }


def environment() -> dict[str, str]:
    """All of the caller's, for a program that acts for him: ssh."""
    return dict(os.environ)


def tool_environment() -> dict[str, str]:
    """What the tools need that we start (CRIU and what it starts, rm, nft). What else the caller has in his is
    nobody's business: a supervisor has the whole environment of its run."""
    return {key: value for key, value in os.environ.items() if key in _FOR_TOOLS or key.startswith(("LC_", "PYTHON"))}


def user_environment() -> dict[str, str]:
    """The caller's environment without our own settings, and without sudo's: what the wrapped command gets."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("CRIU_AGENT_", "SUDO_"))}


def in_image(environment: Mapping[str, str], image: Iterable[str]) -> dict[str, str]:
    """The command's environment in a container image that sets the variables `image` ("K=V").

    What names programs and libraries of the host is left out: in the image they are others, or not there.
    """
    kept = {key: value for key, value in environment.items() if key not in _OF_HOST}
    pairs = (one.partition("=") for one in image)
    return {**kept, "PATH": _PATH, **{key: value for key, _, value in pairs}}


def user_behind_sudo() -> str:
    """The person who called through sudo, as "uid:gid"; "" where nobody has."""
    uid, gid = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    return f"{uid}:{gid}" if uid.isdigit() and gid.isdigit() else ""


def no_color() -> bool:
    return bool(os.environ.get("NO_COLOR"))
