"""scripts/install-criu, into prefixes of its own; the host's packages are not touched."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from criu_agent.criu import selftest

SCRIPT = Path(__file__).parents[2] / "scripts/install-criu"
LISTS = Path("/var/lib/apt/lists")


def install(prefix: Path, *args: str, **env: object) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name not in ("SUITES", "KEYRING")}
    environment |= {"CRIU_AGENT_PREFIX": str(prefix)} | {name: str(value) for name, value in env.items()}
    return subprocess.run([SCRIPT, *args], env=environment, capture_output=True, text=True, timeout=120, check=False)


def apt_without_sources(tmp_path: Path, *settings: str) -> Path:
    """A configuration for $APT_CONFIG in which this host has no package sources and no package lists."""
    state = tmp_path / "apt"
    (state / "lists/partial").mkdir(parents=True)
    conf = tmp_path / "apt.conf"
    lines = [f'Dir::State::lists "{state}/lists"', f'Dir::Cache "{state}"']
    lines += ['Dir::Etc::sourcelist "/dev/null"', 'Dir::Etc::sourceparts "/dev/null"', *settings]
    conf.write_text("".join(f"{line};\n" for line in lines))
    return conf


def architecture() -> str:
    return subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prefix that install-criu filled from nothing, past what the host has."""
    path = tmp_path_factory.mktemp("prefix") / "not/there/yet"
    done = install(path, "--own")
    assert done.returncode == 0, done.stderr
    assert re.search(rf"unpacked criu [\d.]+ of Debian (trixie|forky): {path}/criu/bin/criu", done.stdout)
    return path


def test_the_unpacked_criu_dumps_and_restores(prefix: Path, tmp_path: Path) -> None:
    selftest.round_trip(prefix / "criu/bin/criu", tmp_path)


def test_the_init_beside_it_runs_a_command_and_ends_with_its_status(prefix: Path) -> None:
    init = prefix / "bin/dumb-init"
    assert subprocess.run([init, "--", "sh", "-c", "exit 7"], check=False).returncode == 7


def test_the_init_gives_its_command_a_session_of_its_own(prefix: Path) -> None:
    # CRIU gives a terminal back to the leader of a session only.
    argv = [prefix / "bin/dumb-init", "--", sys.executable, "-c", "import os; print(os.getsid(0) == os.getpid())"]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == "True\n"


def test_only_criu_and_the_init_are_in_the_prefix(prefix: Path) -> None:
    assert sorted(path.name for path in prefix.iterdir()) == ["bin", "criu"]


def test_what_was_unpacked_is_on_record(prefix: Path) -> None:
    names = [line.split("  ")[1] for line in (prefix / "criu/packages.sha256").read_text().splitlines()]
    assert any(name.startswith("./criu_") for name in names)
    assert any(name.startswith("./libc6_") for name in names)


def test_the_second_call_has_nothing_to_do(prefix: Path) -> None:
    before = (prefix / "criu/bin/criu").stat()
    done = install(prefix, DEBIAN_MIRROR="file:/nonexistent")
    assert done.returncode == 0, done.stderr
    assert [line.count("nothing to do") for line in done.stdout.splitlines()] == [1, 1]
    assert (prefix / "criu/bin/criu").stat() == before


def test_a_moved_prefix_still_works(prefix: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(prefix / "criu", tmp_path / "elsewhere", symlinks=True)
    (tmp_path / "box").mkdir()
    selftest.round_trip(moved / "bin/criu", tmp_path / "box")


def test_a_criu_of_the_host_that_works_is_left_to_do_it(prefix: Path, tmp_path: Path) -> None:
    shim = tmp_path / "bin/criu"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {prefix}/criu/bin/criu "$@"\n')
    shim.chmod(0o755)
    done = install(tmp_path / "prefix", PATH=f"{shim.parent}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    assert re.search(rf"the host's own criu [\d.]+ works, nothing to do: {shim}", done.stdout)
    assert not (tmp_path / "prefix/criu").exists()


def test_a_criu_of_the_host_that_only_says_it_works_is_not_taken(tmp_path: Path) -> None:
    liar = tmp_path / "bin/criu"
    liar.parent.mkdir()
    liar.write_text("#!/bin/sh\necho Version: 99.9\n")
    liar.chmod(0o755)
    done = install(
        tmp_path / "prefix",
        PATH=f"{liar.parent}:{os.environ['PATH']}",
        APT_CONFIG=apt_without_sources(tmp_path),
    )
    assert done.returncode == 1
    assert f"{liar} 99.9 does not work here" in done.stdout
    assert "names no Debian mirror" in done.stderr


def test_without_a_mirror_it_says_which_variable_to_set(tmp_path: Path) -> None:
    done = install(tmp_path / "prefix", "--own", APT_CONFIG=apt_without_sources(tmp_path), DEBIAN_MIRROR="")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "install-criu: error: the apt configuration of this host names no Debian mirror",
        "install-criu: hint: set DEBIAN_MIRROR to the URL of one",
    ]
    assert list((tmp_path / "prefix").iterdir()) == []


def test_without_the_keyring_it_says_which_package_has_it(tmp_path: Path) -> None:
    done = install(tmp_path / "prefix", "--own", KEYRING="/nonexistent/keys.gpg")
    assert done.returncode == 1
    assert "hint: apt-get install debian-archive-keyring" in done.stderr


@pytest.mark.parametrize("careless", [False, True], ids=["strict host", "host that allows unsigned ones"])
def test_an_unsigned_repository_is_refused(tmp_path: Path, careless: bool) -> None:
    packages = tmp_path / f"mirror/dists/trixie/main/binary-{architecture()}/Packages"
    packages.parent.mkdir(parents=True)
    packages.write_text("")
    (tmp_path / "mirror/dists/trixie/Release").write_text(
        f"Origin: Debian\nCodename: trixie\nComponents: main\nArchitectures: {architecture()}\n"
    )
    loose = ['Acquire::AllowInsecureRepositories "true"', 'APT::Get::AllowUnauthenticated "true"']
    done = install(
        tmp_path / "prefix",
        "--own",
        APT_CONFIG=apt_without_sources(tmp_path, *(loose if careless else [])),
        DEBIAN_MIRROR=f"file:{tmp_path}/mirror",
    )
    assert done.returncode == 1
    assert "is not signed" in done.stderr
    assert list((tmp_path / "prefix").iterdir()) == []


@pytest.mark.usefixtures("prefix")  # after it the host has package lists
def test_a_repository_whose_signed_index_was_changed_is_refused(tmp_path: Path) -> None:
    signed = next(
        path for path in sorted(LISTS.glob("*_dists_*_InRelease")) if "\nLabel: Debian\n" in path.read_text()
    )
    text = signed.read_text()
    suite = text.split("\nCodename: ")[1].split("\n")[0]
    release = tmp_path / f"mirror/dists/{suite}/InRelease"
    release.parent.mkdir(parents=True)
    release.write_text(text.replace("\nLabel: Debian\n", "\nLabel: Debiam\n"))
    done = install(tmp_path / "prefix", "--own", SUITES=suite, DEBIAN_MIRROR=f"file:{tmp_path}/mirror")
    assert done.returncode == 1
    assert "signature" in done.stderr
    assert list((tmp_path / "prefix").iterdir()) == []


def test_a_mirror_that_has_no_such_suite_is_named(tmp_path: Path) -> None:
    done = install(tmp_path / "prefix", "--own", DEBIAN_MIRROR=f"file:{tmp_path}/nothing")
    assert done.returncode == 1
    assert f"DEBIAN_MIRROR=file:{tmp_path}/nothing is reachable" in done.stderr


def test_an_unknown_argument_is_told_the_usage(tmp_path: Path) -> None:
    done = install(tmp_path / "prefix", "--help-me")
    assert done.returncode == 1
    assert "usage: install-criu [--own]" in done.stderr
    assert not (tmp_path / "prefix").exists()
