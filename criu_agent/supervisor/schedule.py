"""When the next automatic checkpoint is due. Pure: the clock, the CPU time and the dice are given.

The clock is to be CLOCK_MONOTONIC, which stands still while the host sleeps, as the run does: an hour with the lid
closed is no hour of work that could be lost, and no idleness.
"""

import random
from collections import deque
from collections.abc import Callable

from criu_agent import durations

_LOOKS = 10  # at the CPU time in one `on_idle`
_SHARE = 0.1  # of one CPU: OpenCode uses 0.02 to 0.06 while it waits at its prompt, Codex 0.0005
_GRAIN = 0.1  # seconds of CPU time that are always allowed: what is left of a dump, a timer in a short `on_idle`
_FIRST_PAUSE = 1.0  # seconds; doubled with each failure
_LONGEST_PAUSE = 300.0

Clock = Callable[[], float]


class Idleness:
    """Whether a run has done nothing for `limit` seconds.

    Nothing means: it printed nothing, was given no input, and used less than a tenth of one CPU over that time.
    So an agent that waits at its prompt is idle, and one that waits for a slow answer from elsewhere is, too: in both
    cases a snapshot of now is as good as one of later. One that shows a spinner is not.

    The CPU time is only looked at now and then: idleness is seen up to a tenth of `limit` late.
    """

    def __init__(self, limit: float, clock: Clock, cpu: Callable[[], float]) -> None:
        self._limit = limit
        self._clock = clock
        self._cpu = cpu
        self.changed = clock()  # when it was last seen to do something
        self._begin_quiet()

    def _begin_quiet(self) -> None:
        self._since = self._clock()
        self._samples = deque([(self._since, self._cpu())], maxlen=_LOOKS + 1)  # of the last `limit` seconds
        self._spoke = False
        self.next_look = self._since + self._limit / _LOOKS

    def active(self) -> None:
        """It printed something, or was given some input."""
        self._spoke = True
        self.changed = self._clock()

    def frozen(self) -> None:
        """What was used up to now was used by the dump itself, or is in the snapshot."""
        self._begin_quiet()

    def look(self) -> bool:
        """Whether it is idle now."""
        now = self._clock()
        if now >= self.next_look:
            self.next_look = now + self._limit / _LOOKS
            if self._spoke:
                self._begin_quiet()
            elif self._is_busy(now):
                self.changed = now
                self._begin_quiet()
        return not self._spoke and now - self._since >= self._limit

    def _is_busy(self, now: float) -> bool:
        (then, before), used = self._samples[0], self._cpu()
        self._samples.append((now, used))
        return used - before > max(_SHARE * (now - then), _GRAIN)


class Schedule:
    """The automatic checkpoints of one run: every so often, and when it has become idle, as far as each is wanted.

    saved: what the run is now is in the store already (it was restored from there).
    """

    def __init__(
        self,
        *,
        every: float | None,
        on_idle: float | None,
        saved: bool,
        clock: Clock,
        cpu: Callable[[], float],
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._clock = clock
        self._jitter = jitter
        self._every = every
        self._idle = None if on_idle is None else Idleness(on_idle, clock, cpu)
        self._next = None if every is None else clock() + every
        self._not_before = clock()
        self._failures = 0
        self._instant = clock()  # of the checkpoint under way
        self._covered = self._instant if saved else None  # what is newer than that is in no snapshot

    def active(self) -> None:
        """The run printed something, or was given some input."""
        if self._idle is not None:
            self._idle.active()

    def due(self) -> str:
        """Why a checkpoint is due now; "" if none is. To be asked when `wait` has passed."""
        now = self._clock()
        idle = self._idle is not None and self._idle.look() and self._has_news(self._idle)
        if now < self._not_before:
            return ""
        if self._every is not None and self._next is not None and now >= self._next:
            return f"every {durations.text(self._every)}"
        return "idle" if idle else ""

    def wait(self) -> float | None:
        """Seconds until something may be due; None if nothing ever is."""
        times = [] if self._next is None else [max(self._next, self._not_before)]
        if self._idle is not None:
            times.append(self._idle.next_look)
        return max(min(times) - self._clock(), 0.0) if times else None

    def _has_news(self, idle: Idleness) -> bool:
        return self._covered is None or idle.changed > self._covered

    # -- what became of the checkpoint that was due, or of one that the user asked for

    def frozen(self) -> None:
        """The tree is frozen: what it was up to now is what is saved."""
        self._instant = self._clock()
        if self._idle is not None:
            self._idle.frozen()

    def succeeded(self) -> None:
        now = self._clock()
        self._covered = self._instant
        self._failures = 0
        self._not_before = now
        self._next = None if self._every is None else now + self._every

    def failed(self) -> float:
        """An automatic one failed: nothing is due for a pause, which is returned, in seconds.

        It is drawn from 0 to a bound that doubles each time: full jitter, so that the many runs that lost one store
        do not all come back to it in the same moment.
        """
        bound = min(_FIRST_PAUSE * 2.0 ** min(self._failures, 32), _LONGEST_PAUSE)
        self._failures += 1
        pause = self._jitter(0.0, bound)
        self._not_before = self._clock() + pause
        return pause
