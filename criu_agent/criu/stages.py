"""The stages of a `criu dump`: CRIU calls an action script, which asks the supervisor and waits for its answer.

The script reaches two pipes of the supervisor through /proc/PID/fd. Named FIFOs would hang for ever, with the
tree frozen, when the supervisor dies: opening one waits for a reader. These links are gone with the supervisor,
and so is the only writer of the answer, so that a dead supervisor means "no": CRIU rolls back and the agent
goes on.
"""

import os
import select
from pathlib import Path
from typing import Literal

# Opening read-write never waits; the answer is opened for reading only, to see its end when we are gone.
_SCRIPT = """\
#!/bin/sh
[ "$CRTOOLS_SCRIPT_ACTION" = post-dump ] || exit 0
exec 4<"/proc/{pid}/fd/{answer}" 3<>"/proc/{pid}/fd/{question}" || exit 1
echo "$CRTOOLS_SCRIPT_ACTION" >&3
read -r reply <&4 && [ "$reply" = go ]
"""


class Stages:
    """The supervisor's end of the action script. `question` is readable when the tree is frozen and dumped."""

    def __init__(self, script: Path) -> None:
        self.question, self._question_writer = os.pipe2(os.O_CLOEXEC)
        # The script opens our reading end through /proc; what it opens is a pipe end of its own.
        self._answer_reader, self._answer_writer = os.pipe2(os.O_CLOEXEC)
        self.script = script
        text = _SCRIPT.format(pid=os.getpid(), question=self.question, answer=self._answer_reader)
        try:
            script.write_text(text, encoding="ascii")
            script.chmod(0o700)
        except OSError:  # a full disk
            self.close()
            raise

    def asked(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the script to ask; its question is taken then."""
        ready, _, _ = select.select([self.question], [], [], timeout)
        if ready:
            os.read(self.question, 4096)
        return bool(ready)

    def answer(self, reply: Literal["go", "no"]) -> None:
        """go: CRIU finishes as its command line says. no: it undoes everything, and the tree runs on."""
        os.write(self._answer_writer, reply.encode() + b"\n")

    def close(self) -> None:
        for fd in (self.question, self._question_writer, self._answer_reader, self._answer_writer):
            os.close(fd)
        self.script.unlink(missing_ok=True)
