"""The three ways in which criu-agent speaks: a result on stdout, a line on stderr, an error with its hint."""

import json
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

# What a program chose for a name or a file must not act on the terminal that it is shown on, nor break a table.
# \u202a to \u202e and \u2066 to \u2069 turn the direction of what follows, so that it reads as something else.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def result(text: str) -> None:
    """A line on stdout."""
    print(printable(text))


def document(value: object) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=2 if sys.stdout.isatty() else None))


def message(message_type: str, **fields: object) -> None:
    """One JSON line on stdout."""
    print(json.dumps({"message_type": message_type, **fields}), flush=True)


def line(text: str, *, error: bool = False) -> None:
    """A line for the person at the terminal, on stderr."""
    text = "".join(part if part.endswith("\n") else printable(part) for part in re.split(r"(\r?\n)", text))
    red = error and sys.stderr.isatty()
    print(f"\x1b[31m{text}\x1b[0m" if red else text, file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """text with every control character, and every byte that was no UTF-8, as an escape."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def table(header: Sequence[str], rows: Sequence[Sequence[object]], *, color: bool = False) -> None:
    """Columns as wide as their content, two spaces apart; the last is not padded."""
    lines = [[printable(str(cell)) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in lines) for column in range(len(header))]
    for number, row in enumerate(lines):
        text = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        print(f"\x1b[1m{text}\x1b[0m" if color and number == 0 else text)


def size(count: int) -> str:
    """12345678 -> '11.8 MiB'."""
    amount = float(count)
    for unit in _UNITS:
        if amount < 1024 or unit == _UNITS[-1]:
            return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError


def age(moment: str) -> str:
    """'2026-11-21T03:14:15Z' -> '5 minutes ago'; '-' for no moment."""
    if not moment:
        return "-"
    seconds = seconds_since(moment)
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        count = int(seconds // length)
        if count:
            return f"{count} {unit}{'' if count == 1 else 's'} ago"
    return "now"


def seconds_since(moment: str) -> float:
    """From that time until now; 0 for one that is still to come, on a host whose clock was set back."""
    return max((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds(), 0.0)


class ProgressLine:
    """A line on a terminal's stderr that is written over; nothing at all elsewhere, or under --quiet."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled and sys.stderr.isatty()
        self._since: dict[str, float] = {}
        self._shown = False

    def __call__(self, status: dict[str, Any]) -> None:
        if not self._enabled:
            return
        phase, done, total = status["phase"], status["bytes_done"], status["bytes_total"]
        started = self._since.setdefault(phase, datetime.now(UTC).timestamp())
        text = phase
        if total:
            elapsed = max(datetime.now(UTC).timestamp() - started, 0.001)
            rate = done / elapsed
            left = (total - done) / rate if rate else 0
            text = f"{phase}  {size(done)} of {size(total)}  {size(round(rate))}/s  {left:.0f} s left"
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        self._shown = True

    def end(self) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._shown = False
