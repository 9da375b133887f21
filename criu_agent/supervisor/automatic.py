"""Orders the checkpoints that are due, and notes those that fail. Nothing that fails here ends the run."""

from collections.abc import Callable

from criu_agent import log, runs
from criu_agent.box.cgroup import Cgroup
from criu_agent.errors import Failure, Interrupted
from criu_agent.ops.checkpoint import Summary
from criu_agent.supervisor.checkpoints import Checkpoints, Order
from criu_agent.supervisor.jobs import Jobs
from criu_agent.supervisor.schedule import Schedule
from criu_agent.supervisor.supervised import Supervised


class Automatic:
    """Who asks for a checkpoint when no person does."""

    def __init__(self, run: Supervised, jobs: Jobs, checkpoints: Checkpoints, schedule: Schedule) -> None:
        self._run = run
        self._jobs = jobs
        self._checkpoints = checkpoints
        self._schedule = schedule

    def wait(self) -> float | None:
        """Seconds until `tick` may have something to do; None when only an event can give it some."""
        return self._schedule.wait() if self._may_begin() else None

    def tick(self) -> None:
        """Begin a checkpoint if one is due."""
        if self._may_begin() and (reason := self._schedule.due()):
            log.info("a checkpoint is due: %s", reason)
            self._checkpoints.order(Order(asker=self, reason=reason))

    def _may_begin(self) -> bool:
        """Not while another one is under way, nor once the run has ended or been told to."""
        return not self._jobs.busy and self._run.status is None and self._run.kill_at is None

    def status(self, phase: str, done: int, total: int) -> None:
        """Nobody watches."""

    def succeeded(self, summary: Summary) -> None:
        log.info("automatic snapshot %s, %d bytes new", summary.snapshot, summary.bytes_stored)

    def failed(self, failure: Failure) -> None:
        pause = self._schedule.failed()
        if isinstance(failure, Interrupted) or self._run.status is not None:
            log.info("the automatic checkpoint was given up")
            return
        log.warning("the automatic checkpoint failed, the next try is in %.1f s: %s", pause, failure.message)
        self._run.set(checkpoint_error=failure.message, checkpoint_error_time=runs.now())


def cpu_seconds(cgroup: Cgroup) -> Callable[[], float]:
    """A function that says how much CPU time the run has used so far; as last time when it cannot be read now."""
    last = 0.0

    def read() -> float:
        nonlocal last
        try:
            last = cgroup.cpu_seconds()
        except OSError as error:  # no descriptor is free: the output still tells whether it is idle
            log.warning("cannot read the CPU time of the run: %s", error)
        return last

    return read
