"""A console on pipes loses no byte of input over a snapshot; one on a pty keeps its window."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from criu_agent.term.console import Pipes, Pty

PIPE = 65536  # bytes that a pipe holds unless it is asked to hold more


@contextmanager
def pipes(saved: dict[str, Any] | None = None, *, with_input: bool = True) -> Iterator[Pipes]:
    made = Pipes(with_input=with_input) if saved is None else Pipes.again(saved)
    try:
        yield made
    finally:
        made.close()
        made.ends.close()


def read_all(fd: int) -> tuple[bytes, bool]:
    """What is in a pipe, and whether its end was seen."""
    os.set_blocking(fd, False)
    found = b""
    while True:
        try:
            data = os.read(fd, PIPE)
        except BlockingIOError:
            return found, False
        if not data:
            return found, True
        found += data


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=20), st.booleans())
def test_unread_input_is_kept_byte_for_byte(writes: list[bytes], closed: bool) -> None:
    with pipes() as before:
        for data in writes:
            assert before.write(data) == len(data)
        if closed:
            before.close_input()
        saved = before.save()
        assert read_all(before.ends.input) == (b"".join(writes), closed), "saving takes nothing out"
    with pipes(saved) as after:
        assert read_all(after.ends.input) == (b"".join(writes), closed)


def test_a_pipe_that_is_full_is_kept_whole() -> None:
    with pipes() as before:
        taken = 0
        while count := before.write(os.urandom(PIPE)):
            taken += count
        saved = before.save()
        content, _ = read_all(before.ends.input)
    assert len(content) == taken == PIPE
    with pipes(saved) as after:
        assert read_all(after.ends.input) == (content, False)


def test_a_pipe_that_the_program_made_larger_is_kept_whole() -> None:
    content = os.urandom(4 * PIPE)
    with pipes() as before:
        fcntl.fcntl(before.ends.input, fcntl.F_SETPIPE_SZ, 8 * PIPE)
        assert before.write(content) == len(content)
        saved = before.save()
    with pipes(saved) as after:
        assert read_all(after.ends.input) == (content, False)


def test_many_small_writes_fill_a_pipe_and_are_kept() -> None:
    """Each may take a page of its own, so that the pipe is full long before it has 64 KiB."""
    with pipes() as before:
        for number in range(10_000):
            if not before.write(b"%d\n" % number):
                break
        saved = before.save()
        content, _ = read_all(before.ends.input)
    with pipes(saved) as after:
        assert read_all(after.ends.input) == (content, False)


def test_saving_again_after_a_restore_says_the_same_but_the_names() -> None:
    with pipes() as first:
        first.write(b"typed ahead")
        first.close_input()
        saved = first.save()
    with pipes(saved) as second:
        again = second.save()
    assert {**again, "keys": saved["keys"]} == saved


def test_input_that_does_not_fit_is_not_taken() -> None:
    with pipes() as console:
        assert console.write(bytes(2 * PIPE)) == PIPE
        assert console.write(b"x") == 0
        read_all(console.ends.input)
        assert console.write(b"x") == 1


def test_closing_the_input_ends_it_for_the_program_and_later_input_is_dropped() -> None:
    with pipes() as console:
        console.write(b"last")
        console.close_input()
        console.close_input()
        assert console.write(b"more") == 4
        assert console.input_fd() is None
        assert read_all(console.ends.input) == (b"last", True)


def test_a_run_without_input_has_none_after_a_restore_either() -> None:
    with pipes(with_input=False) as console:
        assert console.ends.input == -1
        assert console.write(b"dropped") == 7
        saved = console.save()
        assert len(console.keys) == 2
    assert saved["input"] is None
    with pipes(saved) as again:
        assert again.ends.input == -1
        assert [fd for _, fd in again.inherit(saved)] == [again.ends.output, again.ends.error]


def test_each_pipe_of_the_snapshot_is_replaced_by_the_one_of_the_same_use() -> None:
    with pipes() as before:
        saved = before.save()
        assert saved["keys"] == [os.readlink(f"/proc/self/fd/{fd}") for fd in before.ends.stdio()]
        with pipes(saved) as after:
            assert after.inherit(saved) == list(zip(saved["keys"], after.ends.stdio(), strict=True))


def test_output_and_error_output_are_told_apart_and_end_by_themselves() -> None:
    console = Pipes(with_input=False)
    os.write(console.ends.output, b"out")
    os.write(console.ends.error, b"err")
    console.ends.close()
    streams = {stream: fd for fd, stream in console.outputs().items()}
    assert console.read(streams["stdout"]) == b"out"
    assert console.read(streams["stdout"]) == b""
    assert list(console.outputs().values()) == ["stderr"]
    assert console.read(streams["stderr"]) == b"err"
    assert console.read(streams["stderr"]) == b""
    assert console.outputs() == {}
    console.close()


def test_no_output_now_is_not_the_end() -> None:
    with pipes() as console:
        (output, *_) = console.outputs()
        assert console.read(output) == b""
        assert output in console.outputs()


@pytest.fixture
def pty() -> Iterator[tuple[Pty, int]]:
    master, slave = os.openpty()
    console = Pty(master)
    yield console, slave
    console.close()


def test_the_window_of_a_pty_is_saved(pty: tuple[Pty, int]) -> None:
    console, slave = pty
    console.resize(33, 111)
    assert tuple(os.get_terminal_size(slave)) == (111, 33)
    assert console.save() == {"kind": "pty", "rows": 33, "columns": 111}
    os.close(slave)


def test_a_pty_ends_with_its_last_program_after_all_that_was_printed(pty: tuple[Pty, int]) -> None:
    console, slave = pty
    os.write(slave, b"bye")
    os.close(slave)
    assert console.read(console.master) == b"bye"
    assert console.read(console.master) == b""
    assert console.outputs() == {}
    assert console.write(b"too late") == 8
    assert console.input_fd() is None
