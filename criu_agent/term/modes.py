"""Which modes a program has switched its terminal to, so that another terminal can take over.

A client that attaches later has not seen the escape sequences that chose the alternate screen, bracketed paste
or mouse reports; one that detaches must not be left in them. Only modes are followed, not the picture: a
full-screen program draws that again when the window size changes, and a shell's lines are in the scrollback.
Sequences: ECMA-48, xterm's ctlseqs, and the kitty keyboard protocol.
"""

import re

_ALTERNATE = frozenset({47, 1047, 1049})
_HIDE_WHEN_RESET = 25  # the cursor is visible unless switched off
_FOLLOWED = _ALTERNATE | {1, 25, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 2004}
_SEQUENCE = re.compile(
    rb"\x1b\[\?(?P<modes>[0-9;]{1,64})(?P<set>[hl])|\x1b(?P<keypad>[=>])|\x1b\[(?P<kitty>[<>])(?P<flags>[0-9]{0,9})u|(?P<reset>\x1bc)"
)
_LONGEST_SEQUENCE = 72
_KITTY_DEPTH = 32  # entries of the keyboard stack; terminals keep a few too, and a program may push for ever
_QUERIES = re.compile(rb"\x1b\[(?:6n|0?c|5n)")
_ANSWERS = {b"\x1b[6n": b"\x1b[1;1R", b"\x1b[5n": b"\x1b[0n"}
_DEVICE_ATTRIBUTES = b"\x1b[?62;c"


class Modes:
    """Follows the output of a terminal's programs."""

    def __init__(self) -> None:
        self._on: set[int] = set()
        self._cursor_hidden = False
        self._keypad = False
        self._kitty: list[bytes] = []
        self._rest = b""  # the tail of the last piece, which a sequence may have begun in

    @property
    def full_screen(self) -> bool:
        """Whether a program has the alternate screen, and so draws the whole picture itself."""
        return bool(self._on & _ALTERNATE)

    def follow(self, data: bytes) -> None:
        text = self._rest + data
        end = 0
        for match in _SEQUENCE.finditer(text):
            end = match.end()
            self._apply(match)
        start = text.rfind(b"\x1b", max(end, len(text) - _LONGEST_SEQUENCE))
        self._rest = text[start:] if start >= end and start >= 0 else b""

    def _apply(self, match: "re.Match[bytes]") -> None:
        if match["reset"]:
            self.__init__()  # type: ignore[misc]  # RIS: as a terminal just switched on
        elif match["keypad"]:
            self._keypad = match["keypad"] == b"="
        elif match["kitty"] == b">":
            self._kitty = [*self._kitty, match["flags"]][-_KITTY_DEPTH:]
        elif match["kitty"] == b"<":
            del self._kitty[-max(int(match["flags"] or b"1"), 1) :]
        else:
            for mode in (int(number) for number in match["modes"].split(b";") if number):
                self._switch(mode, on=match["set"] == b"h")

    def _switch(self, mode: int, *, on: bool) -> None:
        if mode == _HIDE_WHEN_RESET:
            self._cursor_hidden = not on
        elif mode in _FOLLOWED and on:
            self._on.add(mode)
        else:
            self._on.discard(mode)

    def enter(self) -> bytes:
        """What brings a fresh terminal into these modes."""
        wanted = sorted(self._on, key=lambda mode: (mode not in _ALTERNATE, mode))
        parts = [b"\x1b[?%dh" % mode for mode in wanted]
        parts += [b"\x1b[2J\x1b[H"] if self.full_screen else []
        parts += [b"\x1b[?25l"] if self._cursor_hidden else []
        parts += [b"\x1b="] if self._keypad else []
        parts += [b"\x1b[>%bu" % flags for flags in self._kitty]
        return b"".join(parts)

    def leave(self) -> bytes:
        """What brings a terminal out of these modes again, for the shell of the user who detaches."""
        parts = [b"\x1b[<%du" % len(self._kitty)] if self._kitty else []
        parts += [b"\x1b>"] if self._keypad else []
        parts += [b"\x1b[?%dl" % mode for mode in sorted(self._on - _ALTERNATE)]
        parts += [b"\x1b[?%dl" % mode for mode in sorted(self._on & _ALTERNATE)]
        parts += [b"\x1b[?25h"] if self._cursor_hidden else []
        return b"\x1b[0m" + b"".join(parts)


def answers(output: bytes) -> bytes:
    """What a terminal says to the questions in `output`: a program must not wait while nobody is attached."""
    return b"".join(_ANSWERS.get(query, _DEVICE_ATTRIBUTES) for query in _QUERIES.findall(output))
