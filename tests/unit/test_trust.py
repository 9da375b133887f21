"""allowed_signers: who is trusted, and that nobody but root says so."""

import os
import threading
from pathlib import Path

import pytest

from criu_agent.errors import Failure, Usage
from criu_agent.repo import hostfile, trust
from criu_agent.repo.trust import NOBODY, Trust
from tests.fakes.keys import OTHER_REPOSITORY, REPOSITORY

ME = frozenset({os.getuid()})
ONE, TWO, THREE = (bytes([number]) * 32 for number in (1, 2, 3))
STRANGER = 54321  # a uid


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "allowed_signers"


def read(path: Path, repository: str = REPOSITORY) -> Trust:
    return trust.read(path, repository, owners=ME)


def add(path: Path, signer: bytes, repository: str = REPOSITORY, **options: object) -> None:
    trust.add(path, repository, signer, "comment", owners=ME, **options)


def test_without_a_file_nobody_is_trusted(path: Path) -> None:
    assert read(path) == NOBODY


def test_a_signer_is_trusted_for_its_repository_or_for_all(path: Path) -> None:
    add(path, ONE)
    add(path, TWO, OTHER_REPOSITORY)
    add(path, THREE, "*")
    assert read(path) == Trust(signers=frozenset({ONE, THREE}), revoked=frozenset())
    assert read(path, OTHER_REPOSITORY).signers == {TWO, THREE}


def test_a_revoked_signer_is_both_named_and_revoked(path: Path) -> None:
    add(path, ONE)
    add(path, ONE, "*", revoke=True)
    assert read(path) == Trust(signers=frozenset({ONE}), revoked=frozenset({ONE}))
    assert read(path).and_signers([TWO]) == Trust(signers=frozenset({ONE, TWO}), revoked=frozenset({ONE}))


def test_a_line_is_not_repeated_and_what_people_wrote_stays(path: Path) -> None:
    path.parent.mkdir()
    path.write_text(f"# mine\n\n*\t{ONE.hex()}")
    add(path, TWO)
    add(path, TWO)
    add(path, ONE, "*")
    assert path.read_text() == f"# mine\n\n*\t{ONE.hex()}\n{REPOSITORY} {TWO.hex()} comment\n"
    assert path.stat().st_mode & 0o777 == 0o644
    assert sorted(path.parent.iterdir()) == [path]


def test_lines_that_are_appended_at_once_are_all_there(path: Path) -> None:
    path.parent.mkdir()
    signers = [os.urandom(32) for _ in range(20)]
    threads = [threading.Thread(target=add, args=(path, signer)) for signer in signers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read(path).signers == set(signers)


@pytest.mark.parametrize(
    "line",
    [
        "x",
        ONE.hex(),
        f"{REPOSITORY} {ONE.hex()[:-1]}",
        f"{REPOSITORY} {ONE.hex()}0",
        f"{REPOSITORY[:-1]} {ONE.hex()}",
        f"{REPOSITORY} {'0A' * 32}",
        f"{REPOSITORY} !!{ONE.hex()}",
        f" {REPOSITORY} {ONE.hex()}",
        "\udcff",
    ],
)
def test_a_line_that_is_not_understood_is_an_error_and_not_skipped(path: Path, line: str) -> None:
    path.parent.mkdir()
    path.write_bytes(b"# first\n" + line.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(Usage, match="line 2"):
        read(path)
    with pytest.raises(Usage, match="line 2"):
        add(path, TWO)


@pytest.mark.parametrize("comment", ["two\nlines", "\r", "\0"])
def test_a_comment_cannot_add_a_line(path: Path, comment: str) -> None:
    with pytest.raises(Usage, match="one line"):
        trust.add(path, REPOSITORY, ONE, comment, owners=ME)


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_can_write_is_refused(path: Path, mode: int) -> None:
    add(path, ONE)
    path.chmod(mode)
    for use in (lambda: read(path), lambda: add(path, TWO)):
        with pytest.raises(Failure, match="can be written by others"):
            use()


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_directory_above_it_that_others_can_write_is_refused_unless_it_is_sticky(path: Path, mode: int) -> None:
    add(path, ONE)
    path.parent.chmod(mode)
    with pytest.raises(Failure, match="state can be written by others"):
        read(path)
    path.parent.chmod(mode | 0o1000)
    assert read(path).signers == {ONE}
    path.parent.chmod(0o700)
    path.parent.parent.chmod(mode)
    with pytest.raises(Failure, match="can be written by others"):
        read(path)


def test_a_file_or_directory_of_somebody_else_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(path, ONE)
    real, victim = os.fstat, path

    def fstat(fd: int) -> os.stat_result:
        found = real(fd)
        strange = os.readlink(f"/proc/self/fd/{fd}") == str(victim)
        return os.stat_result([*found[:4], STRANGER, *found[5:]]) if strange else found

    monkeypatch.setattr(hostfile.os, "fstat", fstat)
    for victim in (path, path.parent, path.parent.parent):  # noqa: B007 - fstat above looks at it
        with pytest.raises(Failure, match=f"belongs to uid {STRANGER}"):
            read(path)
    assert trust.read(path, REPOSITORY, owners={*ME, STRANGER}).signers == {ONE}


def test_a_link_is_followed_and_what_it_leads_to_is_checked(path: Path, tmp_path: Path) -> None:
    add(path, ONE)
    (tmp_path / "link").symlink_to(path.parent)
    assert read(tmp_path / "link" / "allowed_signers").signers == {ONE}
    path.parent.chmod(0o777)
    with pytest.raises(Failure, match="can be written by others"):
        read(tmp_path / "link" / "allowed_signers")


def test_what_is_no_regular_file_or_too_long_is_refused(path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path, 0o600)
    with pytest.raises(Failure, match="not a regular file"):
        read(path)
    path.unlink()
    path.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(Failure, match="more than"):
        read(path)
