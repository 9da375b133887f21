"""Ask the container engine of this host for an image: docker, or podman by its socket (DOCKER_HOST)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from criu_agent.errors import HostCannot, NotFound

_HINT = "give the file that podman save or docker save makes, or set DOCKER_HOST to the engine's socket"


def digest(name: str) -> str:
    """The digest of the image that the engine knows by that name. It is never pulled."""
    with _image(name) as image:
        return str(image.id)  # "sha256:..."


def save(name: str, file: IO[bytes]) -> None:
    """Write the archive of the image into `file`."""
    with _image(name) as image:
        for piece in image.save():
            file.write(piece)
        file.flush()


@contextmanager
def _image(name: str) -> Iterator[Any]:
    import docker  # 0.2 s

    try:
        client = docker.from_env()
        try:
            yield client.images.get(name)
        finally:
            client.close()
    except docker.errors.NotFound as error:
        raise NotFound(f"there is no file {name}, and the container engine has no such image", hint=_HINT) from error
    except (docker.errors.DockerException, OSError) as error:
        raise HostCannot(f"cannot get the image {name} from a container engine: {error}", hint=_HINT) from error
