"""The run directories: `state_dir/runs/<id>/` with run.json, state.json, the lock of the supervisor, and its logs.

state.json is written whole and renamed, by the supervisor only; a reader never sees half of it. Whether a
supervisor lives is asked of the kernel: it holds a lock on `lock` as long as it does.
"""

import dataclasses
import fcntl
import json
import os
import re
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from criu_agent import log
from criu_agent.config import Config
from criu_agent.errors import Failure, HostCannot, NotFound, Usage
from criu_agent.linux import files, proc
from criu_agent.model import RunSpec, RunState

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of man 2 fcntl: type, whence, start, length, pid
ENDED = frozenset({"exited", "failed", "suspended", "fenced"})


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def new_id() -> str:
    return os.urandom(6).hex()  # `secrets` would cost every command 5 ms


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One run directory as it is read now. alive: its supervisor lives."""

    directory: Path
    runtime: Path
    spec: RunSpec
    state: RunState
    alive: bool

    @property
    def socket(self) -> Path:
        return self.runtime / "control.sock"

    @property
    def shown_state(self) -> str:
        """The state to show: what a dead supervisor wrote last is not true any more."""
        if self.alive or self.state.state in ENDED:
            return self.state.state
        return "degraded" if box_is_alive(self) else "failed"


def box_is_alive(run: Run) -> bool:
    """Whether PID 1 of the box still runs, on this boot."""
    pid = run.state.root_pid
    if not pid or run.state.boot_id != boot_id():
        return False
    try:
        # By its cgroup, which has the id of the run: a pid may be reused, and anybody can take its name.
        return run.spec.id in Path(f"/proc/{pid}/cgroup").read_text() and proc.process(pid).state != "Z"
    except OSError:
        return False


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def directory(config: Config, run_id: str) -> Path:
    return config.runs / run_id


def runtime(config: Config, run_id: str) -> Path:
    return config.runtime_dir / run_id


def check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise Usage(f"{name!r} is not a name for a run", hint="use letters, digits, dots, dashes; 63 at most")
    return name


def create(config: Config, spec: RunSpec) -> Path:
    """Make the directory of a new run. Failure when the name is taken."""
    try:
        files.make_private(config.runs)
        files.make_private(config.runtime_dir)
        with _locked(config.state_dir / "lock"):
            _require_free_name(config, spec)
            path = directory(config, spec.id)
            path.mkdir(mode=0o700)
            runtime(config, spec.id).mkdir(mode=0o700, exist_ok=True)
            write_spec(path, spec)
            write_state(path, RunState(state="starting", boot_id=boot_id(), updated=now()))
    except OSError as error:
        raise HostCannot(
            f"cannot make the run directory in {config.state_dir}: {error.strerror}",
            hint="set CRIU_AGENT_STATE_DIR to a directory that can be written to",
        ) from error
    return path


def _require_free_name(config: Config, spec: RunSpec) -> None:
    taken = [run for run in every(config) if run.spec.name == spec.name]
    if taken:
        state = taken[0].shown_state
        verb = "resume" if state == "suspended" else "rm -f" if state == "running" else "rm"
        raise Failure(
            f"the name {spec.name} is taken by a run that is {state}",
            hint=f"choose another --name, or: criu-agent {verb} {spec.name}",
        )


def every(config: Config) -> list[Run]:
    """All runs of this host, oldest first."""
    try:
        names = os.listdir(config.runs)
    except FileNotFoundError:
        return []
    found = [run for name in names if (run := _read(config, name)) is not None]
    return sorted(found, key=lambda run: run.spec.created)


def repository_of(config: Config) -> dict[str, Any]:
    """Where a run's snapshots go, and what opens that, as fields of its RunSpec. A typed passphrase is no file."""
    passphrase_file = "" if config.descriptors else str(config.passphrase_file or "")
    return {
        "repository": config.repository,
        "endpoint_url": config.endpoint_url,
        "key_file": str(config.key_file or ""),
        "passphrase_file": passphrase_file,
    }


def with_repository_of(config: Config, spec: RunSpec) -> Config:
    """The configuration with what `repository_of` has written down. A key of another repository does not stay."""
    same = config.repository == spec.repository
    key_file, passphrase_file = (config.key_file, config.passphrase_file) if same else (None, None)
    return dataclasses.replace(
        config,
        repository=spec.repository,
        endpoint_url=spec.endpoint_url or config.endpoint_url,
        key_file=Path(spec.key_file) if spec.key_file else key_file,
        passphrase_file=Path(spec.passphrase_file) if spec.passphrase_file else passphrase_file,
    )


def find(config: Config, wanted: str) -> Run:
    """The run of that name or id prefix; `.` is the newest that was started in the current directory."""
    known = every(config)
    if wanted == ".":
        try:
            here = os.getcwd()  # noqa: PTH109
        except FileNotFoundError as error:
            raise NotFound("the current directory was removed", hint="name the run, or cd") from error
        matches = [run for run in known if here in (run.spec.workdir, *run.spec.through[:1])][-1:]
    else:
        matches = [run for run in known if run.spec.name == wanted]
        # "" is a script's empty variable, and the beginning of every id
        matches = matches or [run for run in known if wanted and run.spec.id.startswith(wanted)]
    if not matches:
        raise NotFound(f"no such run: {wanted or repr(wanted)}", hint="criu-agent ps -a lists them")
    if len(matches) > 1:
        names = ", ".join(f"{run.spec.id} ({run.spec.name})" for run in matches)
        raise NotFound(f"{wanted} means several runs: {names}", hint="give more of the id")
    return matches[0]


def by_id(config: Config, run_id: str) -> Run | None:
    return _read(config, run_id)


def _read(config: Config, run_id: str) -> Run | None:
    path = directory(config, run_id)
    try:
        saved = json.loads((path / "run.json").read_bytes())
        lists = {key: tuple(saved[key]) for key in ("argv", "through", "exclude", "capture") if key in saved}
        spec = RunSpec(**{**saved, **lists})
        state = _read_state(path / "state.json")
    except (FileNotFoundError, NotADirectoryError):
        return None  # being made or removed just now
    except (ValueError, TypeError, KeyError) as error:
        log.warning("%s cannot be read: %s", path / "run.json", error)
        return None
    return Run(
        directory=path,
        runtime=runtime(config, run_id),
        spec=spec,
        state=state,
        alive=_is_locked(path / "lock"),
    )


def _read_state(path: Path) -> RunState:
    """The state; a damaged one must not hide the run, which `rm` can still remove."""
    try:
        return RunState(**json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        return RunState(state="failed", error=f"{path} cannot be read: {error}")


def write_state(path: Path, state: RunState) -> None:
    write_json(path / "state.json", dataclasses.asdict(state))


def write_spec(path: Path, spec: RunSpec) -> None:
    write_json(path / "run.json", dataclasses.asdict(spec))


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replace the file in one step, mode 0600."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())  # else a power cut can leave an empty file under the name
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def hold_lock(path: Path) -> int:
    """Take the lock of a run for the life of this process. Failure when a supervisor has it.

    An open file description lock (man 2 fcntl), which can be asked for without being taken: `ps` must not be in the
    way of a supervisor that starts in the same moment.
    """
    fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except OSError as error:
        os.close(fd)
        raise Failure("the run has a supervisor already", hint="criu-agent ps shows its state") from error
    return fd


def _is_locked(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        asked = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    finally:
        os.close(fd)
    return bool(_FLOCK.unpack(asked)[0] != fcntl.F_UNLCK)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def remove(run: Run) -> None:
    """Delete the run's directories. Its snapshots stay in the repository."""
    shutil.rmtree(run.runtime, ignore_errors=True)
    # What says that there is a run last: a removal that is cut off can be said again.
    last = ("state.json", "run.json")
    for entry in sorted(run.directory.iterdir(), key=lambda path: path.name in last):
        if entry.is_dir() and not entry.is_symlink():
            files.remove_tree(entry)
        else:
            entry.unlink()
    run.directory.rmdir()
