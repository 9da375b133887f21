"""Real S3 servers on loopback for tests and bench, started from what scripts/install-test-s3 unpacked."""

import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import boto3
from botocore.config import Config

ROOT = Path(os.environ.get("CRIU_AGENT_TEST_TOOLS", "/opt/criu-agent/test-tools")) / "s3"
PYTHON = "/usr/bin/python3"  # the one that the distribution's packages are made for
BUCKET = "criu-agent-tests"


@dataclass(frozen=True, kw_only=True)
class Server:
    """An S3 server with a user and an empty bucket named BUCKET."""

    endpoint: str
    access_key: str
    secret_key: str

    @property
    def environment(self) -> dict[str, str]:
        """What AWS's tools, and so ours, take from the environment; nothing else of this host is looked at."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def client(self, *, default: bool = False) -> Any:
        """boto3's client; with `default` it is one with nothing set that need not be."""
        more = {} if default else {"request_checksum_calculation": "when_required"}
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, **more),
        )


class Processes:
    """Programs of ROOT that end with this object, and by the kernel's doing with this process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._started: list[tuple[str, subprocess.Popen[bytes]]] = []
        directories = [
            *ROOT.glob("usr/lib/*-linux-gnu"),
            *ROOT.glob("usr/lib/*-linux-gnu/ceph"),
            *ROOT.glob("lib/*-linux-gnu"),
        ]
        self.environment = {
            **os.environ,
            "LD_LIBRARY_PATH": ":".join(map(str, directories)),
            "PYTHONPATH": str(ROOT / "usr/lib/python3/dist-packages"),
        }

    def run(self, program: str, *arguments: str) -> str:
        """What a program of ROOT prints."""
        done = subprocess.run(
            self._argv(program, arguments),
            env=self.environment,
            cwd=self._directory,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{program} {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self, name: str, program: str, *arguments: str) -> None:
        """Start a program of ROOT in the background; what it says is in `<name>.out`."""
        with (self._directory / f"{name}.out").open("wb") as out:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self._argv(program, arguments)],
                env=self.environment,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self._started.append((name, process))

    def await_true(self, test: Callable[[], bool], what: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not test():
            for name, process in self._started:
                assert process.poll() is None, f"{name} ended: {self.said()}"
            assert time.monotonic() < deadline, f"waited in vain for {what}: {self.said()}"
            time.sleep(0.05)

    def said(self) -> str:
        """The end of what each program said."""
        outs = sorted(self._directory.glob("*.out"))
        return "".join(f"\n--- {path.name}\n{path.read_text(errors='replace')[-2000:]}" for path in outs)

    def __enter__(self) -> "Processes":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        for _, process in reversed(self._started):
            process.kill()  # nothing of theirs is kept
            process.wait()

    def _argv(self, program: str, arguments: Sequence[str]) -> list[str]:
        if program == "python3":
            return [PYTHON, "-s", *arguments]
        path = ROOT / "usr/bin" / program
        assert path.exists(), f"there is no {path}: run scripts/install-test-s3"
        interpreter = [PYTHON, "-s"] if path.read_bytes()[:20].startswith(b"#!") else []
        return [*interpreter, str(path), *arguments]


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def answers(url: str) -> bool:
    """Whether an HTTP server is there, whatever it says."""
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except OSError:
        return False
    return True


def empty(directory: Path) -> Path:
    """A new directory in place of what was there."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory
