"""Periodic timers that had ticked at the freeze are set again in the images."""

import struct
from pathlib import Path

import pytest

from criu_agent.criu import image_edit
from criu_agent.criu import messages_pb2 as pb
from criu_agent.criu.timers import wind_up_periodic_timers

TIMER, REGULAR = 17, 1
# A field that we do not know, as CRIU's clockid: number 4, varint.
UNKNOWN = b"\x20\x01"


def timer(*, ticks: int, value: tuple[int, int], interval: tuple[int, int]) -> pb.File:
    made = pb.TimerFile(
        ticks=ticks, value_s=value[0], value_ns=value[1], interval_s=interval[0], interval_ns=interval[1]
    )
    made.MergeFromString(UNKNOWN)
    return pb.File(type=TIMER, id=5, timer=made)


def files_image(directory: Path, file: pb.File) -> Path:
    path = directory / "files.img"
    path.write_bytes(struct.pack("<II", 0x54564319, 0x56303138))
    others = [pb.File(type=REGULAR, id=number) for number in (1, 9)]
    image_edit.rewrite(path, [one.SerializeToString() for one in (others[0], file, others[1])])
    return path


def test_a_periodic_timer_that_has_ticked_comes_after_one_period(tmp_path: Path) -> None:
    path = files_image(tmp_path, timer(ticks=3, value=(0, 0), interval=(1, 500)))
    assert wind_up_periodic_timers(tmp_path) == 1
    first, mended, last = image_edit.small(path, pb.File)
    assert (first.id, mended.id, last.id) == (1, 5, 9)
    assert (mended.timer.value_s, mended.timer.value_ns, mended.timer.ticks) == (1, 500, 3)
    assert UNKNOWN in mended.timer.SerializeToString(), "what we do not know is kept"
    assert wind_up_periodic_timers(tmp_path) == 0, "once is enough"


@pytest.mark.parametrize(
    "file",
    [
        timer(ticks=0, value=(0, 0), interval=(0, 0)),
        timer(ticks=0, value=(0, 7), interval=(1, 0)),
        timer(ticks=1, value=(0, 0), interval=(0, 0)),
        pb.File(type=REGULAR, id=5),
    ],
    ids=["never set", "not yet due", "fired for good", "no timer"],
)
def test_all_else_is_left_alone(tmp_path: Path, file: pb.File) -> None:
    path = files_image(tmp_path, file)
    before = path.read_bytes()
    assert wind_up_periodic_timers(tmp_path) == 0
    assert path.read_bytes() == before
