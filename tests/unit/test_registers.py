"""The larger registers that threads in CRIU's images have in use."""

import struct
from collections.abc import Mapping

import pytest

from criu_agent.criu import messages_pb2 as pb
from criu_agent.criu import registers
from criu_agent.criu.imagefile import Images
from criu_agent.errors import Corrupt


def images(in_use: Mapping[int, int], comm: bytes = b"node") -> Images:
    files = {"inventory.img": b""}
    for number, bits in in_use.items():
        core = pb.Core(
            x86=pb.CoreX86(floating_point=pb.FloatingPoint(xsave=pb.Xsave(in_use=bits))),
            task=pb.CoreTask(state=1, comm=comm) if number < 10 else None,
        )
        data = core.SerializeToString()
        files[f"core-{number}.img"] = bytes(8) + struct.pack("<I", len(data)) + data
    sizes = {name: len(data) for name, data in files.items()}
    return Images(sizes=sizes, read=lambda name, offset, length: files[name][offset : offset + length])


def test_only_what_the_processor_lacks_is_told() -> None:
    some = images({1: 0x3, 2: 0x7, 30: 0xE7, 4: 1 << 9, 5: 1 << 18})
    assert registers.beyond(some, []) == ["avx in node (2)", "amx_tile in node (5)", "avx avx512f in a thread (30)"]
    assert registers.beyond(some, ["avx"]) == ["amx_tile in node (5)", "avx512f in a thread (30)"]
    assert registers.beyond(some, ["avx", "avx512f", "amx_tile"]) == []


def test_a_thread_of_another_machine_has_none() -> None:
    data = pb.Core(task=pb.CoreTask(state=1, comm=b"sh")).SerializeToString()
    whole = bytes(8) + struct.pack("<I", len(data)) + data
    other = Images(sizes={"core-1.img": len(whole)}, read=lambda _name, at, length: whole[at : at + length])
    assert registers.beyond(other, []) == []


def test_an_image_that_is_none_is_corrupt() -> None:
    with pytest.raises(Corrupt):
        registers.beyond(Images(sizes={"core-1.img": 0}, read=lambda *_: b""), [])
