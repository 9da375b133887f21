"""The supervisor of one run: `python -m criu_agent.supervisor ID --ready FD [--restore SNAPSHOT]`.

Started by the CLI in a session of its own. It says on FD, in one JSON line, that the run is up or why not, and
then serves the run to its end.
"""

import argparse
import dataclasses
import json
import os
import signal
import sys

from criu_agent import config, control, log, runs
from criu_agent.config import Config
from criu_agent.errors import Failure, Interrupted
from criu_agent.linux import files, nft, proc
from criu_agent.ops import live, restore, start, through
from criu_agent.supervisor import confirm
from criu_agent.supervisor.server import Server


def main() -> int:
    options = _options()
    settings = config.load()
    directory = runs.directory(settings, options.run)
    log.open_file(directory / "supervisor.log")
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        server, answer = _bring_up(settings, options)
    except Failure as error:
        log.warning("could not bring the run up: %s", error.message)
        _say(options.ready, error.to_json())
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the starter waits for an answer, whatever it is
        log.exception("could not bring the run up")
        _say(
            options.ready,
            Failure(f"internal error: {error!r}", hint=f"see {directory}/supervisor.log").to_json(),
        )
        return 1
    _say(options.ready, answer)
    os.close(options.ready)
    server.serve()
    _end(settings, server)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="criu_agent.supervisor")
    parser.add_argument("run")
    parser.add_argument("--ready", type=int, required=True)
    parser.add_argument("--starter", type=int, required=True)
    parser.add_argument("--restore", metavar="SNAPSHOT")
    parser.add_argument("--files", choices=["refuse", "theirs", "ours"], default="refuse")
    parser.add_argument("--into", metavar="DIR", default="")
    parser.add_argument("--awaited", action="store_true")
    parser.add_argument("--confirm", type=int, metavar="FD")
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--columns", type=int, default=80)
    return parser.parse_args()


def _say(ready: int, answer: dict[str, object]) -> None:
    try:
        os.write(ready, json.dumps(answer).encode() + b"\n")
    except OSError as error:  # the starter was killed meanwhile: the run is up all the same
        log.info("nobody waits for the answer: %s", error.strerror)


def _bring_up(settings: Config, options: argparse.Namespace) -> tuple[Server, dict[str, object]]:
    """The server of the run, and what the starter is told of a restore: connections that were reset, and the snapshot
    that has the files which were replaced."""
    run = runs.by_id(settings, options.run)
    if run is None:
        raise Failure(f"there is no run directory for {options.run}")
    for fd in (options.ready, options.confirm, *settings.descriptors):
        if fd is not None:
            os.set_inheritable(fd, False)
    runs.hold_lock(run.directory)
    # Another supervisor may have had the run until now: what it left is what counts.
    run = runs.by_id(settings, options.run) or run
    keeper = _Keeper(run, settings, options)
    signal.signal(signal.SIGTERM, keeper.on_sigterm)
    try:
        keeper.begins()
        files.make_private(run.runtime)
        # Now: as soon as the state says that it runs, others may want something of it. They wait to be served.
        listener = control.listen(run.socket)
        live.enter_private_mounts()
        if options.restore:
            keeper.state = restore.catch_up(settings, keeper.state, options.restore)
            here = restore.Here(choice=options.files, into=options.into)
            restored = restore.restore(settings, keeper.run, options.restore, here=here, commit=keeper.runs)
            alive, told = restored.live, {name: getattr(restored, name) for name in ("reset", "safety", "warnings")}
        else:
            window = (options.rows, options.columns)
            alive, told = start.start(settings, run.spec, window=window, commit=keeper.runs), {}
    except BaseException as error:
        keeper.failed(error)
        raise
    try:
        if run.state.network_lock:
            nft.delete_table(run.state.network_lock)
        server = Server(alive, keeper.state, listener, starter=options.starter, awaited=options.awaited)
    except BaseException as error:
        alive.cgroup.kill()  # nobody would serve it
        alive.cgroup.remove()
        keeper.failed(error)
        raise
    if keeper.told_to_end:
        os.kill(os.getpid(), signal.SIGTERM)  # it came too late to be undone: now the server has it
    return server, {"message_type": "ready", **told}


class _Keeper:
    """Writes the run's state while it comes up."""

    def __init__(self, run: runs.Run, settings: Config, options: argparse.Namespace) -> None:
        self._before = run.state
        self._options = options
        self._committed = False
        self.told_to_end = False
        self.state = dataclasses.replace(
            run.state,
            state="restoring" if options.restore else "starting",
            supervisor_pid=os.getpid(),
            supervisor_start=proc.start_time(os.getpid()),
            boot_id=runs.boot_id(),
            exit_code=None,
            error="",
            updated=runs.now(),
        )
        # Where it was restored from is where its next snapshots go.
        spec = dataclasses.replace(run.spec, **runs.repository_of(settings))
        if options.into:
            spec = through.with_backing(spec, options.into)
        self.run = dataclasses.replace(run, spec=spec, state=self.state)

    def begins(self) -> None:
        runs.write_state(self.run.directory, self.state)

    def on_sigterm(self, *_: object) -> None:
        first, self.told_to_end = not self.told_to_end, True
        if first and not self._committed:  # a second one must not break into what the first has to undo
            raise Interrupted("interrupted", agent_state="not running")

    def runs(self, root_pid: int) -> None:
        """The point of no return: the run is up, whatever comes."""
        if self._options.confirm is not None:
            confirm.await_go(self._options.confirm, lambda: _say(self._options.ready, {"message_type": "restored"}))
        self._committed = True
        self.state = dataclasses.replace(
            self.state,
            state="running",
            root_pid=root_pid,
            suspended_at="",
            network_lock="",
            restored=self._options.restore or "",
            moved_to="",
            updated=runs.now(),
        )
        runs.write_spec(self.run.directory, self.run.spec)
        runs.write_state(self.run.directory, self.state)

    def failed(self, error: BaseException) -> None:
        """A start that failed leaves a failed run; a restore that failed leaves the run as it was."""
        state = self._before
        if state.state not in runs.ENDED:
            state = dataclasses.replace(self.state, state="failed", root_pid=0, error=str(error), updated=runs.now())
        elif self._committed:  # it has run since it was suspended: its connections are not what they were
            state = dataclasses.replace(state, suspended_at="", network_lock="")
        runs.write_state(self.run.directory, state)


def _end(settings: Config, server: Server) -> None:
    run = runs.by_id(settings, server.run.live.spec.id)
    if run is not None and run.spec.remove_on_exit and server.run.state.state == "exited":
        runs.remove(run)


if __name__ == "__main__":
    sys.exit(main())
