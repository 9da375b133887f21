"""The only voice of the core: lines to the log file of the process, never to a terminal."""

import logging
import sys
from pathlib import Path

_logger = logging.getLogger("criu_agent")
_logger.addHandler(logging.NullHandler())
_logger.propagate = False


def open_file(path: Path) -> None:
    """Send everything from now on to the file `path` (appended, mode 0600)."""
    handler = logging.FileHandler(path, encoding="utf-8")
    path.chmod(0o600)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    _logger.addHandler(handler)
    _logger.setLevel(logging.DEBUG)


def open_stderr() -> None:
    """Show everything on stderr, as `-vv` asks for."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    _logger.addHandler(handler)
    _logger.setLevel(logging.DEBUG)


debug = _logger.debug
info = _logger.info
warning = _logger.warning
exception = _logger.exception
