"""The newest state of a repository that this host has seen: an older one is not believed (docs/format.md C9).

Files of the state directory. They only say what the store may not fall behind: who loses them loses that
protection, and nothing else.
"""

from dataclasses import dataclass
from pathlib import Path

from criu_agent.errors import Corrupt, Failure
from criu_agent.linux import files
from criu_agent.repo import hostfile
from criu_agent.repo.fields import Fields
from criu_agent.store.document import from_json, to_json

_LIMIT = 1 << 12
_GENERATION = "generation"  # no run's file: those end with .json


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A state: its number, which only grows, and what it was: a head's revision and snapshot id, or a generation
    and its signer in hex."""

    number: int
    value: str


class Floor:
    """What was seen of one repository. Several processes may use it at once."""

    def __init__(self, state_dir: Path, repository_id: str) -> None:
        self._directory = state_dir / "seen" / repository_id

    def head(self, run_id: str) -> Seen | None:
        """The newest head of the run that was seen, None if there was none."""
        return self._read(f"{run_id}.json", "revision", "snapshot")

    def check_head(self, run_id: str, shown: Seen | None) -> None:
        """Corrupt if the store shows an older head (None: no head) than was seen, or another one with its number."""
        _check(f"head of run {run_id}", self.head(run_id), shown)

    def saw_head(self, run_id: str, shown: Seen, *, older: bool = False) -> None:
        """Remember it, durably. Corrupt as in `check_head`, unless `older`: the user has allowed it."""
        self._write(f"{run_id}.json", "revision", "snapshot", f"head of run {run_id}", shown, older)

    def forget_head(self, run_id: str) -> None:
        """Remember nothing of the run: it was removed from the repository, or the user has asked for it."""
        (self._directory / f"{run_id}.json").unlink(missing_ok=True)

    def check_generation(self, shown: Seen) -> None:
        """Corrupt if the keys in force are older than those that were seen, or others of their number."""
        _check("keys", self._read(_GENERATION, "number", "signer"), shown)

    def saw_generation(self, shown: Seen, *, older: bool = False) -> None:
        self._write(_GENERATION, "number", "signer", "keys", shown, older)

    def _read(self, name: str, number: str, value: str) -> Seen | None:
        path = self._directory / name
        try:
            with open(path, "rb") as file:
                data = file.read(_LIMIT + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Failure(f"cannot read {path}: {error.strerror}") from error
        try:
            fields = Fields(from_json(data, str(path)), str(path))
            return Seen(number=fields.integer(number), value=fields.text(value))
        except Corrupt as error:
            # Written in one step, so this is no crash of ours. To go on would be to trust the store blindly.
            raise Corrupt(
                error.message, hint=f"if the repository is in the state that you expect: rm {path}"
            ) from error

    def _write(self, name: str, number: str, value: str, what: str, shown: Seen, older: bool) -> None:
        try:
            with files.locked(self._directory):
                if not older:
                    before = self._read(name, number, value)
                    _check(what, before, shown)
                    if before == shown:
                        return
                data = to_json({number: shown.number, value: shown.value})
                hostfile.replace(self._directory / name, data, 0o600)
        except OSError as error:
            raise hostfile.not_written(self._directory / name, error) from error


def _check(what: str, seen: Seen | None, shown: Seen | None) -> None:
    if seen is None or (shown is not None and shown.number > seen.number) or shown == seen:
        return
    if shown is None:
        how = "shows none"
    elif shown.number < seen.number:
        how = f"shows number {shown.number}"
    else:
        how = f"shows another number {shown.number}"
    raise Corrupt(
        f"the store shows an older state than this host has seen: "
        f"the {what} had number {seen.number}, and now it {how}",
        hint="if it was brought back from a copy on purpose, allow it with --allow-rollback",
    )
