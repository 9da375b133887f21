"""Again, later, and not for ever."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from criu_agent import log
from criu_agent.store.s3_errors import Answer, Place, failure

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long an S3 store tries, in seconds. A method takes at most `total` and one more request."""

    total: float = 90  # after which no request is begun any more
    request: float = 120  # what one bulk request may take: 16 MiB at 140 kB/s
    silence: float = 20  # when a peer that says nothing is given up
    pause: float = 0.1  # the longest first pause between two requests; it doubles each time
    pause_throttled: float = 1  # the same, where the server asks to slow down
    pause_limit: float = 20


def persist(
    attempt: Callable[[bool], _Result],
    patience: Patience,
    place: Place,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    jitter: Callable[[float, float], float] = random.uniform,
) -> _Result:
    """attempt(again) until it returns; `again` is whether an earlier one may have taken effect.

    An Answer that will not change, or that is still the same when patience ends, is raised as its Failure. Pauses
    have full jitter: many writers that were refused together do not come back together.
    """
    began = clock()
    number = 0
    while True:
        try:
            return attempt(number > 0)
        except Answer as answer:
            if not answer.transient:
                raise failure(answer, place) from answer
            first = patience.pause_throttled if answer.throttled else patience.pause
            pause = max(answer.pause, jitter(0, min(patience.pause_limit, first * 2 ** min(number, 20))))
            spent = clock() - began
            if spent + pause >= patience.total:
                raise failure(answer, place, seconds=spent) from answer
            log.debug("%s: %s, again in %.2f s", place, answer, pause)
            sleep(pause)
            number += 1
