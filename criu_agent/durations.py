"""Durations as people write them: 90s, 5m, 2h, 1d12h, 2w."""

import re

from criu_agent.errors import Usage

_UNITS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile("".join(rf"(?:(?P<{unit}>[0-9]{{1,9}}){unit})?" for unit in _UNITS))
LONGEST = 10 * 365 * _UNITS["d"]  # seconds


def parse(text: str) -> float:
    """The seconds in `text`. Usage for anything else, for nothing at all, and for more than ten years."""
    match = _DURATION.fullmatch(text)
    if not match or not text:
        hint = f"{text}s is seconds, {text}m minutes" if text.isdecimal() else "write it as 90s, 5m, 2h, 1d or 1h30m"
        raise Usage(f"{text!r} is no duration", hint=hint)
    seconds = sum(int(match[unit] or 0) * length for unit, length in _UNITS.items())
    if not 0 < seconds <= LONGEST:
        raise Usage(f"{text!r} is {'nothing' if not seconds else 'too long'}", hint="from 1s to 520w are possible")
    return float(seconds)


def text(seconds: float) -> str:
    """The shortest that `parse` reads as that many seconds: 5400 is 1h30m. Below a second it is 0s."""
    left, parts = int(seconds), []
    for unit, length in _UNITS.items():
        if unit != "w" or left % length == 0:  # 15d is better than 2w1d
            count, left = divmod(left, length)
            parts += [f"{count}{unit}"] if count else []
    return "".join(parts) or "0s"


def rough(seconds: float) -> str:
    """In its largest unit alone: 5400 is 1h. For ages."""
    for unit in ("d", "h", "m"):
        if seconds >= _UNITS[unit]:
            return f"{int(seconds // _UNITS[unit])}{unit}"
    return f"{max(int(seconds), 0)}s"
