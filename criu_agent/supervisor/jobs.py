"""Work that takes long, beside the loop: in one thread, so that the terminal stays alive meanwhile.

The thread touches nothing of the loop. What it needs from there it asks for with `in_loop`, which runs a function
in the loop and brings its result back.
"""

import os
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

from criu_agent import log
from criu_agent.errors import Failure

T = TypeVar("T")


class Jobs:
    """At most one job at a time. `wake` is readable when `run_calls` has something to do."""

    def __init__(self) -> None:
        self.wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        return self._thread is not None

    def start(self, work: Callable[[], T], done: Callable[[T | None, Failure | None], None]) -> None:
        """Run work() in the thread, then done(result, error) in the loop. Failure if no thread can be had."""

        def body() -> None:
            result: T | None = None
            error: Failure | None = None
            try:
                result = work()
            except Failure as failure:
                error = failure
            except OSError as failure:
                log.exception("a job failed")
                error = Failure(str(failure))
            except Exception as failure:  # noqa: BLE001 - a bug here must not take the supervisor, and the agent, down
                log.exception("a job failed")
                error = Failure(f"internal error: {failure!r}", hint="please report it with the supervisor.log")
            self.post(lambda: self._finish(lambda: done(result, error)))

        thread = threading.Thread(target=body, name="job", daemon=True)
        try:
            thread.start()
        except RuntimeError as failure:  # the limit of processes is reached
            raise Failure(f"cannot begin: {failure}", hint="raise the limit of processes, or end some") from failure
        self._thread = thread

    def _finish(self, done: Callable[[], None]) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        done()

    def post(self, call: Callable[[], None]) -> None:
        """Have the loop run call()."""
        self._calls.put(call)
        os.eventfd_write(self.wake, 1)

    def in_loop(self, function: Callable[[], T]) -> T:
        """Run function() in the loop, from the thread; its result, or its exception."""
        answer: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

        def call() -> None:
            try:
                answer.put((function(), None))
            except BaseException as error:  # noqa: BLE001 - it is raised in the thread that asked
                answer.put((None, error))

        self.post(call)
        result, error = answer.get()
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # T may be None itself

    def run_calls(self) -> None:
        """In the loop: do what the thread asked for."""
        os.eventfd_read(self.wake)
        while True:
            try:
                call = self._calls.get_nowait()
            except queue.Empty:
                return
            call()
