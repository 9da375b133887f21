"""Which larger registers the threads in CRIU's images have in use: what a processor without them cannot take over.

CRIU itself drops them there without a word (arch/x86/crtools.c, assign_xsave). The processor counts registers as in
use only while they hold something, so a program that uses them now and then is not always found.
"""

import re
from collections.abc import Collection, Iterator

from criu_agent.criu import messages_pb2 as pb
from criu_agent.criu.imagefile import Images, only
from criu_agent.criu.openfiles import text

# Bits of XSTATE_BV (Intel SDM volume 1, chapter 13), and the flag of /proc/cpuinfo that goes with each. Left out is
# what has no content of the program's (PKRU, supervisor states).
_COMPONENTS = {2: "avx", 5: "avx512f", 6: "avx512f", 7: "avx512f", 17: "amx_tile", 18: "amx_tile"}
_CORE = re.compile(r"core-([0-9]{1,10})\.img")


def beyond(images: Images, flags: Collection[str]) -> list[str]:
    """The threads whose registers need more than the flags: "avx in node (12)", in the order of their numbers."""
    found = ((who, sorted(needed - {*flags})) for who, needed in _needs(images))
    return [f"{' '.join(lacking)} in {who}" for who, lacking in found if lacking]


def _needs(images: Images) -> Iterator[tuple[str, set[str]]]:
    threads = sorted((int(match[1]), name) for name in images.sizes if (match := _CORE.fullmatch(name)))
    for number, name in threads:
        core = only(images, name, pb.Core)
        in_use = core.x86.floating_point.xsave.in_use
        needed = {flag for bit, flag in _COMPONENTS.items() if in_use >> bit & 1}
        program = text(core.task.comm)
        yield (f"{program} ({number})" if program else f"a thread ({number})"), needed
