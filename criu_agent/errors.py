"""Every error that criu-agent raises, with the exit code that it ends with.

    Failure                     1   something that was asked for could not be done
    +- NoSpace                  1   a file system is full; a checkpoint makes 16 of it
    +- NoConditionalPut         1   the store cannot say who was first: good for one host only
    +- Usage                    2   the command line or a configuration value is wrong
    +- NotFound                10   no such run, snapshot or repository
    +- WrongKey                12   no key that was given opens the repository, or none can be trusted
    +- Conflict                13   the files here are not those of the snapshot any more
    +- Corrupt                 14   a stored object is missing, truncated or changed
    +- HostCannot              15   this host lacks what the verb needs
    |  +- NotRoot
    +- Refused                 16   this tree cannot be checkpointed now; the agent is unharmed
    +- Timeout                124   a wait took longer than the caller allowed
    +- Interrupted            130   the user pressed Ctrl-C
    +- ToolFailed             125   `run`/`exec`: criu-agent itself failed, the command never ran
    +- NotExecutable          126   `run`/`exec`: the command is there and cannot be executed
    +- CommandNotFound        127   `run`/`exec`: there is no such command

The numbers are INTERFACE section 4 and never change. An error that is not in this tree is a bug and
shows its traceback.
"""

from typing import ClassVar


class Failure(Exception):
    """What failed and which thing, in lower case without a full stop.

    `hint` is what to type next. `agent_state` says how a destructive verb left the agent.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "", agent_state: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.agent_state = agent_state

    def to_json(self) -> dict[str, object]:
        """The `exit_error` document of INTERFACE section 3."""
        return {
            "message_type": "exit_error",
            "code": self.exit_code,
            "message": self.message,
            "hint": self.hint,
            "agent_state": self.agent_state,
        }


class NoSpace(Failure):
    pass


class NoConditionalPut(Failure):
    pass


class Usage(Failure):
    exit_code = 2


class NotFound(Failure):
    exit_code = 10


class WrongKey(Failure):
    exit_code = 12


class Conflict(Failure):
    exit_code = 13


class Corrupt(Failure):
    exit_code = 14


class HostCannot(Failure):
    exit_code = 15


class NotRoot(HostCannot):
    pass


class Refused(Failure):
    exit_code = 16


class Timeout(Failure):
    exit_code = 124


class ToolFailed(Failure):
    exit_code = 125


class NotExecutable(Failure):
    exit_code = 126


class CommandNotFound(Failure):
    exit_code = 127


class Interrupted(Failure):
    exit_code = 130


def by_code(code: int) -> type[Failure]:
    """The class for an exit code that came over the control socket; `Failure` for an unknown one."""
    pending: list[type[Failure]] = [Failure]
    while pending:
        cls = pending.pop(0)
        if cls.exit_code == code:
            return cls
        pending.extend(cls.__subclasses__())
    return Failure
