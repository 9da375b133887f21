"""`criu-agent` and `python -m criu_agent`."""

import sys


def main() -> None:
    from criu_agent.cli.main import run_cli

    sys.exit(run_cli(sys.argv[1:]))


if __name__ == "__main__":
    main()
