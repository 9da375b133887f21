"""The modes of a terminal: followed over any cut, given to another terminal, and taken back from it."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from criu_agent.term.modes import Modes, answers

MODES = [1, 25, 47, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 1047, 1049, 2004]
SEQUENCE = re.compile(rb"\x1b(?:(?P<simple>[=>c])|\[(?P<mark>[?<>]?)(?P<numbers>[0-9;]*)(?P<final>[a-zA-Z]))")


class Terminal:
    """The modes of a terminal, after ctlseqs and the kitty keyboard protocol; it takes whole sequences only."""

    def __init__(self, output: bytes = b"") -> None:
        self.reset()
        self.print(output)

    def reset(self) -> None:
        self.on = {25}  # the cursor is visible
        self.keypad = False
        self.kitty: list[bytes] = []

    def print(self, output: bytes) -> None:
        for match in SEQUENCE.finditer(output):
            numbers = [int(number) for number in match["numbers"].split(b";") if number] if match["numbers"] else []
            if match["simple"] == b"c":
                self.reset()
            elif match["simple"]:
                self.keypad = match["simple"] == b"="
            elif match["mark"] == b"?" and match["final"] in b"hl":
                change = self.on.union if match["final"] == b"h" else self.on.difference
                self.on = set(change(numbers))
            elif match["final"] == b"u" and match["mark"] == b">":
                self.kitty.append(match["numbers"])
            elif match["final"] == b"u" and match["mark"] == b"<":
                del self.kitty[-(numbers or [1])[0] :]

    @property
    def state(self) -> tuple[set[int], bool, list[bytes]]:
        return self.on, self.keypad, self.kitty


decset = st.builds(
    lambda numbers, final: b"\x1b[?%b%b" % (b";".join(b"%d" % number for number in numbers), final),
    st.lists(st.sampled_from(MODES), min_size=1, max_size=4),
    st.sampled_from([b"h", b"l"]),
)
kitty = st.sampled_from([b"\x1b[>1u", b"\x1b[>15u", b"\x1b[>u", b"\x1b[<u", b"\x1b[<2u"])
others = st.sampled_from([b"\x1b=", b"\x1b>", b"\x1bc", b"\x1b[31m", b"\x1b[2J", b"text\r\n", b"\x1b]0;title\x07"])
programs = st.lists(st.one_of(decset, kitty, others), max_size=12).map(b"".join)


def followed(*pieces: bytes) -> Modes:
    modes = Modes()
    for piece in pieces:
        modes.follow(piece)
    return modes


@given(programs)
def test_a_fresh_terminal_that_enters_is_in_the_modes_of_the_program(output: bytes) -> None:
    assert Terminal(followed(output).enter()).state == Terminal(output).state


@given(programs)
def test_a_terminal_that_entered_and_leaves_is_fresh_again(output: bytes) -> None:
    modes = followed(output)
    assert Terminal(modes.enter() + modes.leave()).state == Terminal().state


@given(programs)
def test_what_enters_is_itself_followed(output: bytes) -> None:
    """It is how the modes are carried in a snapshot."""
    modes = followed(output)
    assert followed(modes.enter()).enter() == modes.enter()


@given(programs, st.lists(st.integers(0, 200), max_size=6))
def test_sequences_may_be_cut_at_any_byte(output: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(output)) for cut in cuts), len(output)]
    cut = followed(*(output[start:end] for start, end in pairwise(edges)))
    assert cut.enter() == followed(output).enter()


@pytest.mark.parametrize("sequence", [b"\x1b[?1049;2004;1002;25h", b"\x1b[>31u", b"\x1b=", b"\x1b[?47h"])
def test_a_sequence_that_comes_byte_by_byte_is_seen(sequence: bytes) -> None:
    assert followed(*(bytes([byte]) for byte in sequence)).enter() == followed(sequence).enter() != b""


def test_a_reset_takes_everything_back() -> None:
    modes = followed(b"\x1b[?1049h\x1b[?25l\x1b=\x1b[>1u\x1b[?2004h\x1bc")
    assert modes.enter() == b""
    assert not modes.full_screen


@pytest.mark.parametrize("mode", [47, 1047, 1049])
def test_the_alternate_screen_means_full_screen(mode: int) -> None:
    modes = followed(b"\x1b[?%dh" % mode)
    assert modes.full_screen
    modes.follow(b"\x1b[?%dl" % mode)
    assert not modes.full_screen


def test_the_alternate_screen_is_entered_first_and_left_last() -> None:
    modes = followed(b"\x1b[?1002h\x1b[?1049h")
    assert modes.enter().startswith(b"\x1b[?1049h")
    assert modes.leave().endswith(b"\x1b[?1049l")


@given(st.binary(max_size=400))
def test_no_output_at_all_breaks_it(output: bytes) -> None:
    modes = followed(output)
    modes.enter()
    modes.leave().decode("ascii")


@given(st.text(alphabet="0123456789;<>?[u\x1bhlc=", max_size=200))
def test_nothing_that_looks_like_a_sequence_breaks_it(output: str) -> None:
    followed(output.encode(), output.encode()).enter()


@pytest.mark.parametrize(
    "output", [b"\x1b[<1;2u", b"\x1b[<;u", b"\x1b[<%bu" % (b"9" * 5000), b"\x1b[>%bu" % (b"9" * 5000)]
)
def test_numbers_that_no_terminal_takes_are_passed_over(output: bytes) -> None:
    modes = followed(b"\x1b[>5u" + output)
    assert modes.enter() == b"\x1b[>5u"


def test_a_program_that_pushes_for_ever_does_not_fill_the_memory() -> None:
    modes = followed(b"\x1b[>1u" * 100_000 + b"\x1b[>7u")
    assert len(modes.enter()) < 1000
    assert modes.enter().endswith(b"\x1b[>7u")


def test_questions_are_answered_in_their_order() -> None:
    assert answers(b"a\x1b[6nb\x1b[cc\x1b[5n\x1b[0c") == b"\x1b[1;1R\x1b[?62;c\x1b[0n\x1b[?62;c"


def test_what_is_no_question_has_no_answer() -> None:
    assert answers(b"\x1b[16n \x1b[31m 6n c \x1b[>c") == b""
