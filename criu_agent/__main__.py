"""`criu-agent` and `python -m criu_agent`."""

import signal
import sys


def main() -> None:
    # Until there is something to undo Ctrl-C just ends us, without the traceback of a half-done import.
    own_handler = signal.getsignal(signal.SIGINT)
    if own_handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from criu_agent.cli.main import run_cli

    signal.signal(signal.SIGINT, own_handler)
    sys.exit(run_cli(sys.argv[1:]))


if __name__ == "__main__":
    main()
