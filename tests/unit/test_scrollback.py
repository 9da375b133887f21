"""What a run printed lately: the last lines, byte for byte, within bounds."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from criu_agent.control import MAX_PAYLOAD
from criu_agent.term.scrollback import Scrollback

outputs = st.text(alphabet="ab\n\r", max_size=60).map(str.encode)


def last_lines(output: bytes, lines: int) -> bytes:
    """By the definition: a line ends with its newline, an unfinished one counts."""
    *complete, rest = output.split(b"\n")
    found = [line + b"\n" for line in complete] + ([rest] if rest else [])
    return b"".join(found[-lines:]) if lines else b""


@given(outputs, st.lists(st.integers(0, 60), max_size=5))
def test_nothing_is_changed_wherever_the_output_is_cut(output: bytes, cuts: list[int]) -> None:
    scrollback = Scrollback()
    edges = [0, *sorted(min(cut, len(output)) for cut in cuts), len(output)]
    for start, end in pairwise(edges):
        scrollback.add(output[start:end])
    assert scrollback.content() == output


@given(outputs, st.integers(0, 10))
def test_the_tail_is_the_last_lines(output: bytes, lines: int) -> None:
    assert Scrollback(output).tail(lines) == last_lines(output, lines)


def test_only_so_many_lines_are_kept() -> None:
    scrollback = Scrollback(lines=3)
    for number in range(10):
        scrollback.add(b"%d\n" % number)
    scrollback.add(b"open")
    assert scrollback.content() == b"7\n8\n9\nopen"


def test_a_restored_one_goes_on_in_the_middle_of_the_line() -> None:
    scrollback = Scrollback(Scrollback(b"one\ntw").content())
    scrollback.add(b"o\nthree")
    assert scrollback.content() == b"one\ntwo\nthree"


def test_a_line_that_never_ends_does_not_fill_the_memory() -> None:
    scrollback = Scrollback()
    for _ in range(2000):
        scrollback.add(b"x" * 65536)
    assert len(scrollback.content()) < MAX_PAYLOAD


def test_very_long_lines_do_not_fill_the_memory_and_the_newest_stay() -> None:
    scrollback = Scrollback()
    for number in range(1000):
        scrollback.add(b"%d " % number + b"y" * 60000 + b"\n")
    assert len(scrollback.content()) < MAX_PAYLOAD
    assert scrollback.tail(1).startswith(b"999 y")


def test_a_screenful_fits_into_a_frame_of_the_control_socket() -> None:
    scrollback = Scrollback(b"\n".join(b"z" * 65535 for _ in range(500)))
    assert 0 < len(scrollback.tail(200)) < MAX_PAYLOAD
