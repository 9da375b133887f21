"""The container images that runs of this host live in: `images/<digest>/` in the state directory.

Each has `root`, all of its layers one over the other, which is not changed any more, and `config.json`. It is made
under another name and renamed, so it is there whole or not at all.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from criu_agent import runs
from criu_agent.config import Config
from criu_agent.errors import HostCannot, Usage
from criu_agent.fs import container
from criu_agent.fs.container import Settings
from criu_agent.linux import files
from criu_agent.model import RunSpec
from criu_agent.ops import engine

_UNFINISHED = ".new-"


def bring(config: Config, wanted: str) -> str:
    """Have the container image here: `wanted` is a file of `docker save`, or a name that an engine knows. Its digest.

    One that is there is not unpacked again. Of two at once the second one waits for the first.
    """
    if Path(wanted).is_file():
        with _place(config) as place:
            return _unpacked(place, Path(wanted))
    if wanted.startswith(("/", "./", "../")):
        raise Usage(
            f"there is no file {wanted}", hint="give a file of podman save or docker save, or an image's name"
        )
    digest = engine.digest(wanted)
    if container.DIGEST.fullmatch(digest) and _directory(config, digest).is_dir():
        return digest
    with _place(config) as place, tempfile.NamedTemporaryFile(dir=place, prefix=_UNFINISHED) as file:
        engine.save(wanted, file)
        return _unpacked(place, Path(file.name))


def require(config: Config, spec: RunSpec) -> None:
    """HostCannot if the image that the run lives in is not on this host."""
    if spec.image:
        root(config, spec.image)


def root(config: Config, digest: str) -> Path:
    """The root directory of the image. HostCannot if it is not on this host."""
    found = _directory(config, digest) / "root"
    if not found.is_dir():
        raise HostCannot(
            f"the run lives in the container image {digest}, which is not on this host",
            hint="bring it: criu-agent restore --image FILE ..., of podman save or docker save, or an image's name",
            agent_state="not running",
        )
    return found


def settings(config: Config, digest: str) -> Settings:
    """What the image says of the programs in it."""
    return container.settings((root(config, digest).parent / "config.json").read_bytes())


def remove_unused(config: Config, *, dry_run: bool) -> list[str]:
    """Remove the images that no run of this host lives in, whatever its state; their digests."""
    with _place(config) as place:
        used = {run.spec.image.removeprefix("sha256:") for run in runs.every(config)}
        found = sorted(path for path in place.iterdir() if path.name not in used)
        for path in found if not dry_run else ():
            gone = path.rename(place / f"{_UNFINISHED}{path.name}")
            files.remove_tree(gone)
    return [f"sha256:{path.name}" for path in found]


def _directory(config: Config, digest: str) -> Path:
    # Without "sha256:": a colon separates the layers of an overlay.
    return config.state_dir / "images" / digest.removeprefix("sha256:")


@contextmanager
def _place(config: Config) -> Iterator[Path]:
    """The directory of all images, for us alone, without what one that was killed has left."""
    place = config.state_dir / "images"
    with files.locked(place):
        for path in place.glob(f"{_UNFINISHED}*"):
            files.remove_tree(path)
        yield place


def _unpacked(place: Path, file: Path) -> str:
    with container.opened(file, place) as archive:
        target = place / archive.digest.removeprefix("sha256:")
        if target.is_dir():
            return archive.digest
        new = Path(tempfile.mkdtemp(dir=place, prefix=_UNFINISHED))
        try:
            (new / "root").mkdir()
            (new / "root").chmod(0o755)
            archive.unpack(new / "root")
            (new / "config.json").write_bytes(archive.config)
            os.sync()  # a name that outlives a power failure must not lead to files that did not
            new.rename(target)
        except BaseException:
            files.remove_tree(new)
            raise
        return archive.digest


def require_same(config: Config, wanted: str, digest: str) -> None:
    """Have the image `wanted` here, which must be the one with that digest: HostCannot if it is another one."""
    if not digest:
        raise Usage("the snapshot's run lives in no container image", hint="leave --image out")
    found = bring(config, wanted)
    if found != digest:
        raise HostCannot(
            f"{wanted} is {found}, and the run lives in {digest}", hint="give the image with that digest"
        )
