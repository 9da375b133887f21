"""Mend the images of timer descriptors: CRIU restores a periodic one that has ticked as one that stands still.

After a tick the kernel sets the next one when the first is read (fs/timerfd.c), and shows (0, 0) as the time to it
until then; CRIU sets exactly that, which disarms the timer. A tick comes during the freeze if not before it, so that
every timer with a period shorter than the freeze was lost. The next tick is set to come one period after the restore.
"""

from pathlib import Path

from criu_agent import log
from criu_agent.criu import image_edit, messages_pb2


def wind_up_periodic_timers(images: Path) -> int:
    """Mend files.img in place; how many timers needed it."""
    path = images / "files.img"
    files = image_edit.small(path, messages_pb2.File)
    still = [file.timer for file in files if _stands_still(file)]
    if not still:
        return 0
    for timer in still:
        timer.value_s, timer.value_ns = timer.interval_s, timer.interval_ns
    image_edit.rewrite(path, [file.SerializeToString() for file in files])
    log.debug("%d periodic timers had ticked: they were set again", len(still))
    return len(still)


def _stands_still(file: messages_pb2.File) -> bool:
    """Whether there is a period and no next tick. One that was never set, or has fired for good, has no period.

    Ticks are no sign: the kernel also shows (0, 0) in the moment when a tick is due and not yet counted.
    """
    timer = file.timer
    periodic = bool(timer.interval_s or timer.interval_ns)
    return file.HasField("timer") and periodic and not (timer.value_s or timer.value_ns)
