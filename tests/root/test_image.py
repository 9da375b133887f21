"""A run whose root is a container image, which real tools have made: it lives in it, and comes back in it only."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Agent, await_true
from tests.counting import assert_counts_on, numbers
from tests.fakes import containers

COUNT = "n=0; while :; do n=$((n + 1)); echo $n; sleep 0.05; done"
NAME = "localhost/criu-agent-test:1"
PROGRAMS = ("sh", "cat", "ls", "sleep", "env", "pwd", "readlink")


class Podman:
    """A podman with a store of its own, which has one image: a busybox, as a host without glibc."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "podman.sock"
        root = directory / "root"
        for name in ("bin", "etc", "srv/app"):
            (root / name).mkdir(parents=True)
        shutil.copy("/bin/busybox", root / "bin/busybox")
        for name in PROGRAMS:
            (root / "bin" / name).symlink_to("busybox")
        (root / "etc/whose").write_text("the image's\n")
        (root / "etc/resolv.conf").symlink_to("/etc/shadow")
        subprocess.run(["tar", "-C", root, "-cf", directory / "root.tar", "."], check=True)
        settings = ["ENV PATH=/bin", "ENV WHERE=image", "WORKDIR /srv/app"]
        changes = [word for one in settings for word in ("-c", one)]
        self.digest = (
            self("import", "-q", *changes, str(directory / "root.tar"), NAME).strip().removeprefix("sha256:")
        )
        self.docker = self.save("docker-archive")
        self.oci = self.save("oci-archive")

    def argv(self, *arguments: str) -> list[str]:
        store = [
            "--root",
            f"{self.directory}/store",
            "--runroot",
            f"{self.directory}/run",
            "--tmpdir",
            f"{self.directory}/tmp",
        ]
        return ["podman", "--storage-driver", "vfs", *store, *arguments]

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(self.argv(*arguments), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done
        return done.stdout

    def save(self, kind: str) -> str:
        self("save", "-q", "--format", kind, "-o", f"{self.directory}/{kind}.tar", NAME)
        return f"{self.directory}/{kind}.tar"

    def serve(self) -> "subprocess.Popen[bytes]":
        address = f"unix://{self.socket}"
        service = subprocess.Popen(self.argv("system", "service", "--time", "0", address))
        await_true(self.socket.exists, "podman's socket")
        return service


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    directory = tmp_path_factory.mktemp("podman")
    yield Podman(directory)
    shutil.rmtree(directory)


def images(agent: Agent) -> list[str]:
    return sorted(os.listdir(agent.directory / "state/images"))


def test_a_run_sees_the_image_and_its_workspace(agent: Agent, podman: Podman) -> None:
    script = "env; pwd; cat /etc/whose /etc/hosts; ls -a / /etc; echo written > $WORK/file"
    environment = {"WORK": str(agent.workdir), "LD_LIBRARY_PATH": "/nowhere", "TOKEN": "of the host"}
    argv = ("run", "-e", "WHERE=here", "--image", podman.docker, "--", "sh", "-c", script)
    said = agent(*argv, env=environment).out.splitlines()
    assert {"PATH=/bin", "WHERE=here", "TOKEN=of the host", "/srv/app", "the image's"} <= set(said)
    assert not [line for line in said if line.startswith("LD_LIBRARY_PATH")]
    assert "127.0.0.1\tlocalhost" in said
    assert (agent.workdir / "file").read_text() == "written\n"
    assert images(agent) == [podman.digest]
    kept = agent.directory / "state/images" / podman.digest
    assert os.readlink(kept / "root/etc/resolv.conf") == "/etc/shadow", "the image is as it was"
    assert not (kept / "root/proc").exists()


def test_a_workdir_that_is_given_is_where_it_starts(agent: Agent, podman: Podman) -> None:
    assert agent("run", "-w", ".", "--image", podman.oci, "--", "pwd").out == f"{agent.workdir}\n"


def test_a_terminal_works_in_an_image(agent: Agent, podman: Podman) -> None:
    agent("run", "-dt", "--name", "shell", "--image", podman.oci, "--", "sh", "-c", "readlink /dev/fd/0; cat")
    await_true(lambda: "/dev/pts/0" in agent("logs", "shell").out, "its terminal")
    agent("suspend", "shell")
    agent("resume", "-d", "shell")
    assert agent("exec", "shell", "readlink", "/proc/2/fd/0").out == "/dev/pts/0\n"


def test_another_user_and_a_terminal_need_nothing_of_the_image(agent: Agent) -> None:
    agent.workdir.chmod(0o777)
    bare = containers.layer(containers.entry("busybox", Path("/bin/busybox").read_bytes(), mode=0o755))
    archive = containers.docker_archive(agent.directory / "bare.tar", bare)
    script = "/busybox id -u; /busybox readlink /proc/self/fd/0; echo > mine; exec /busybox sleep 1000"
    agent("run", "-dt", "--name", "user", "-u", "1234", "--image", str(archive), "--", "/busybox", "sh", "-c", script)
    await_true((agent.workdir / "mine").exists, "it has written")
    assert agent("logs", "user").out.split() == ["1234", "/dev/pts/0"]
    assert (agent.workdir / "mine").stat().st_uid == 1234
    agent("suspend", "user")
    agent("resume", "-d", "user")
    assert agent("exec", "user", "/busybox", "id", "-u").out == "1234\n"
    assert agent("exec", "-u", "0", "user", "/busybox", "id", "-u").out == "0\n"


def test_it_comes_back_in_the_same_image_only(agent: Agent, podman: Podman, tmp_path: Path) -> None:
    agent("run", "-d", "--name", "counter", "--image", podman.docker, "--", "sh", "-c", COUNT)
    await_true(lambda: len(numbers(agent)) > 3, "it counts")
    assert agent("inspect", "counter").json[0]["spec"]["image"] == f"sha256:{podman.digest}"
    agent("exec", "counter", "sh", "-c", "echo mine > /etc/whose")
    agent("suspend", "counter")
    agent("resume", "-d", "counter")
    assert_counts_on(agent)
    agent("suspend", "counter")
    before = numbers(agent)[-1]
    agent.forget_everything("counter")
    shutil.rmtree(agent.directory / "state/images")

    missing = agent("restore", "-d", "counter", check=False)
    assert (missing.code, agent.runs()) == (15, [])
    assert f"sha256:{podman.digest}, which is not on this host" in missing.err
    assert "restore --image" in missing.err
    other = containers.docker_archive(tmp_path / "other.tar", containers.layer(containers.entry("x")))
    wrong = agent("restore", "-d", "--image", str(other), "counter", check=False)
    assert (wrong.code, agent.runs()) == (15, [])
    agent("restore", "-d", "--image", podman.oci, "counter")
    await_true(lambda: before + 3 in numbers(agent), "it counts on")
    after = numbers(agent)
    assert after == list(range(after[0], after[0] + len(after))), "no number is missing, none is there twice"
    assert after[0] <= before + 1
    assert agent("exec", "counter", "cat", "/etc/whose").out == "mine\n"


def test_what_it_wrote_is_compared_with_the_image_and_is_none_of_the_hosts(agent: Agent, podman: Podman) -> None:
    script = "echo more >> /etc/whose; echo new > /srv/app/new"
    agent("run", "--name", "writer", "--image", podman.docker, "--", "sh", "-c", script)
    said = agent("diff", "writer").out.split("\n")
    assert said == ["C /etc", "C /etc/whose", "C /srv", "C /srv/app", "A /srv/app/new", ""]
    merged = agent("merge", "writer", check=False)
    assert (merged.code, "lives in a container image" in merged.err) == (1, True)
    kept = agent("rm", "writer", check=False)
    assert (kept.code, "merge" in kept.err) == (1, False)
    agent("rm", "-f", "writer")


def test_the_hosts_root_and_an_image_exclude_each_other(agent: Agent, podman: Podman) -> None:
    refused = agent("run", "--fs", "host", "--image", podman.docker, "--", "pwd", check=False)
    assert (refused.code, "leave one out" in refused.err, agent.runs()) == (2, True, [])


def test_an_image_is_taken_from_an_engine_by_name(
    agent: Agent, podman: Podman, ended: list["subprocess.Popen[bytes]"]
) -> None:
    ended.append(podman.serve())
    engine = {"DOCKER_HOST": f"unix://{podman.socket}"}
    assert agent("run", "--image", NAME, "--", "cat", "/etc/whose", env=engine).out == "the image's\n"
    assert images(agent) == [podman.digest]
    unknown = agent("run", "--image", "localhost/nothing", "--", "cat", env=engine, check=False)
    assert (unknown.code, "no such image" in unknown.err) == (10, True)
    absent = agent("run", "--image", NAME, "--", "cat", env={"DOCKER_HOST": "unix:///nowhere"}, check=False)
    assert (absent.code, "podman save" in absent.err) == (15, True)


def test_images_that_no_run_lives_in_are_removed_when_told(agent: Agent, podman: Podman) -> None:
    agent("run", "--name", "first", "--image", podman.oci, "--", "pwd")
    assert agent("prune", "--images", "--json").json["images"] == []
    agent("rm", "first")
    assert images(agent) == [podman.digest], "rm leaves it"
    assert agent("prune", "--images", "-n", "--json").json["images"] == [f"sha256:{podman.digest}"]
    assert images(agent) == [podman.digest]
    agent("prune", "--images")
    assert images(agent) == []


def test_a_hostile_image_leaves_nothing(agent: Agent) -> None:
    bad = containers.layer(containers.symlink("way", "/"), containers.entry("way/criu-agent-was-here", b"!"))
    archive = containers.docker_archive(agent.workdir / "bad.tar", containers.layer(containers.entry("x")), bad)
    refused = agent("run", "--image", str(archive), "--", "/x", check=False)
    assert (refused.code, "way/criu-agent-was-here" in refused.err) == (14, True)
    assert not Path("/criu-agent-was-here").exists()
    assert (images(agent), agent.runs()) == ([], [])


def test_a_link_of_the_image_never_leads_a_mount_out(agent: Agent) -> None:
    first = Path(agent.workdir).parts[1]
    layer = containers.layer(containers.symlink(first, "/etc"), containers.entry("bin/x", b"", mode=0o755))
    archive = containers.docker_archive(agent.directory / "link.tar", layer)
    refused = agent("run", "-d", "--image", str(archive), "--", "/bin/x", check=False)
    assert (refused.code, f"a link at /{first}" in refused.err) == (15, True)
    assert (agent.runs(), (Path("/etc") / Path(*agent.workdir.parts[2:])).exists()) == ([], False)


def test_an_import_that_was_killed_leaves_nothing_that_counts(agent: Agent, podman: Podman) -> None:
    """Killed while it unpacks: the image is not there, and the next one makes it."""
    place = agent.directory / "state/images"
    argv = [*agent.program, "run", "-d", "--name", "killed", "--image", podman.docker, "--", "sleep", "60"]
    for patience in (0.0, 0.002, 0.02):
        process = subprocess.Popen(argv, cwd=agent.workdir, env=agent.env, stdout=subprocess.DEVNULL)
        await_true(lambda: place.is_dir() and any(place.iterdir()), "it unpacks")
        time.sleep(patience)
        process.kill()
        process.wait()
        if podman.digest in images(agent):
            break
        assert all(name.startswith(".new-") for name in images(agent))
    agent("run", "--name", "next", "--image", podman.docker, "--", "pwd")
    assert images(agent) == [podman.digest]


def test_two_at_once_get_one_image(agent: Agent, podman: Podman) -> None:
    argv = [*agent.program, "run", "--image", podman.oci, "--", "cat", "/etc/whose"]
    both = [subprocess.Popen(argv, cwd=agent.workdir, env=agent.env, stdout=subprocess.PIPE) for _ in range(2)]
    assert [process.communicate()[0] for process in both] == [b"the image's\n"] * 2
    assert images(agent) == [podman.digest]
