"""One `criu dump`, from its start to the end of CRIU.

with Dump(...) as dump:       # frozen here: everything is dumped
    ...                       # capture what must be of the same instant
    dump.go()                 # without this CRIU rolls back, and the tree runs on
"""

import re
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from criu_agent import log
from criu_agent.criu import command, explain, image_edit, messages_pb2
from criu_agent.criu.images import ImageDir
from criu_agent.criu.stages import Stages
from criu_agent.errors import Corrupt, Failure, HostCannot, Interrupted, Timeout
from criu_agent.linux import nft, proc, process

_LOG_FILE = "criu-dump.log"
_TICK = 0.02  # seconds between two looks at CRIU and at the caller's wish to stop
_LAST_RITES = 1.0  # seconds that CRIU has to notice that its tree has died
_RUN_ID = re.compile(r"^\S*\s*CRIU run id = (\S+)$", re.MULTILINE)
_TABLE_NAME = 26  # characters of it that CRIU uses: its buffer has 32 bytes, and begins with "inet "


def table_names(log_text: str, pid: int) -> frozenset[str]:
    """What CRIU calls the nft table that holds the connections of the tree below `pid`, by the log of its dump.

    Since 4.1 it has the id of the dump in its name, which is in the first line of the log; before that, the pid.
    """
    return frozenset({f"CRIU-{name}"[:_TABLE_NAME] for name in (str(pid), *_RUN_ID.findall(log_text)[:1])})


def figures(work: Path) -> messages_pb2.DumpStats:
    """What CRIU says of the dump in stats-dump; zeros if it cannot be read, since the dump is done all the same."""
    try:
        (stats,) = image_edit.small(work / "stats-dump", messages_pb2.Stats)
        return stats.dump
    except (OSError, ValueError, Corrupt) as error:
        log.warning("there are no figures of the dump: %s", error)
        return messages_pb2.DumpStats()


class Cancel:
    """Set by another thread to have a dump, or what is done with it, given up."""

    def __init__(self) -> None:
        self.wanted = False

    def check(self) -> None:
        if self.wanted:
            raise Interrupted("the checkpoint was given up", agent_state="running, unharmed")


class Dump:
    """A dump of the tree below `pid` into `images`. limit: seconds until a dump that does not end is given up."""

    def __init__(
        self,
        criu: Path,
        *,
        pid: int,
        images: ImageDir,
        work: Path,
        externals: Sequence[str],
        leave_running: bool,
        network_lock: command.NetworkLock,
        limit: float,
        cancel: Cancel,
    ) -> None:
        self._pid = pid
        self._images = images
        self._work = work
        self._log = work / _LOG_FILE
        self._limit = limit
        self._cancel = cancel
        self._log.unlink(missing_ok=True)
        self._stages = Stages(work / "criu-stage")
        self._decided = False
        self._died: float | None = None  # when the tree was seen to be dead
        argv = command.dump(
            criu,
            pid=pid,
            images=images.path,
            work=work,
            log_file=_LOG_FILE,
            externals=externals,
            stage_script=self._stages.script,
            leave_running=leave_running,
            network_lock=network_lock,
        )
        try:
            self._criu = process.spawn(argv)
        except OSError as error:
            self._stages.close()
            raise HostCannot(
                f"cannot run {criu}: {error.strerror}", hint="install it with scripts/install-criu"
            ) from error

    def __enter__(self) -> "Dump":
        """Wait until the tree is frozen and dumped."""
        try:
            self._await_frozen()
        except BaseException:
            self._stages.close()
            raise
        return self

    def _await_frozen(self) -> None:
        deadline = time.monotonic() + self._limit
        reason: Failure | None = None
        while not self._stages.asked(_TICK):
            if self._ended():
                raise reason or self._failure()
            if reason is not None:
                continue
            if self._cancel.wanted:
                reason = Interrupted("the checkpoint was given up", agent_state="running, unharmed")
            elif time.monotonic() > deadline:
                reason = Timeout(f"the dump did not end within {self._limit:.0f} s", agent_state="running, unharmed")
            if reason is not None:
                self._images.fill()
        if reason is not None:  # it had finished writing before there was no room left
            self._answer_no()
            raise reason

    def go(self) -> messages_pb2.DumpStats:
        """Let CRIU finish: the tree runs on, or stays stopped, as asked for at the start. CRIU's own figures."""
        self._decided = True
        self._stages.answer("go")
        self._await_end()
        if self._criu.returncode != 0:
            raise self._failure()
        return figures(self._work)

    def table_names(self) -> frozenset[str]:
        """What the nft table of this dump may be called, if it has one."""
        return table_names(self._log_text(), self._pid)

    def _answer_no(self) -> None:
        self._decided = True
        self._stages.answer("no")
        self._await_end()
        log.info("the dump was undone")

    def _await_end(self) -> None:
        while not self._ended(_TICK):
            pass

    def _ended(self, timeout: float = 0.0) -> bool:
        """Wait up to `timeout` seconds for the end of CRIU. One whose tree has died is ended here.

        It may wait for ever: for PID 1 of the box, which the kernel keeps until all others have been reaped, and the
        dead among them that CRIU traces can be reaped by CRIU alone. Nothing is left that this could harm.
        """
        with suppress(process.TimeoutExpired):
            self._criu.wait(timeout)
            return True
        if not proc.is_ending(self._pid):
            return False
        self._died = self._died or time.monotonic()
        if time.monotonic() < self._died + _LAST_RITES:
            return False
        log.info("the run has died, and its dump with it")
        self._criu.kill()
        self._criu.wait()
        for name in self.table_names() & nft.criu_tables():
            nft.delete_table(name)
        return True

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._decided:
            self._answer_no()
        self._stages.close()

    def _failure(self) -> Failure:
        if self._died is not None:
            return Failure("the run has ended", hint="criu-agent ps -a", agent_state="not running")
        explanation = explain.explain(self._log_text(), verb="dump")
        return explain.as_failure(explanation, agent_state="running, unharmed")

    def _log_text(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""
