"""The programs that run in a box before its command: the init, a shell, setpriv. The host's, in every box.

The root of a container image may have others, or none, and other libraries. So they are brought along into the run's
layer, with the loader and the libraries that they were made for; there they are part of its snapshots.
"""

import os
import shutil
from pathlib import Path

from criu_agent.errors import HostCannot
from criu_agent.linux import elf, process

SHELL = "/bin/sh"
SETPRIV = "/usr/bin/setpriv"  # not by the PATH of the command, which others may write to: it is still root here
PLACE = "/.criu-agent"
_LOADER = ".loader"  # behind the name of a program that needs one


def bring(upper: Path, programs: dict[str, str]) -> None:
    """Bring programs into the layer `upper`: their paths in the box, to where they are on the host."""
    place = upper / PLACE.lstrip("/")
    place.mkdir(mode=0o755)
    for name, source in programs.items():
        own = place / os.path.basename(name)  # noqa: PTH119 - a str
        shutil.copy(source, own)
        own.chmod(0o755)
        with open(source, "rb") as file:
            loader = elf.interpreter(file)
        if loader:
            _bring_libraries(place, loader, source)
            own.with_name(own.name + _LOADER).symlink_to(Path(loader).name)


def _bring_libraries(place: Path, loader: str, program: str) -> None:
    said = process.run([loader, "--list", program])
    if not said.ok:
        raise HostCannot(f"cannot tell what {program} needs: {said.stderr.decode(errors='replace').strip()}")
    libraries = {word for word in said.stdout.decode().split() if word.startswith("/")}
    for library in {*libraries, loader}:
        shutil.copy(library, place)


def argv(program: str) -> list[str]:
    """How one of them is executed in the box that this process is in: the run's own, where it has one."""
    own = f"{PLACE}/{os.path.basename(program)}"  # noqa: PTH119 - a str
    if not os.path.exists(own):  # noqa: PTH110 - a str, and so on: after pivot_root nothing must be imported any more
        return [program]
    loader = own + _LOADER
    return [loader, "--library-path", PLACE, own] if os.path.exists(loader) else [own]  # noqa: PTH110
