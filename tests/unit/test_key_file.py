"""Key files: made once and private, read if nobody else can have."""

import os
import stat
from pathlib import Path

import pytest

from criu_agent.errors import Failure, NotFound, Usage, WrongKey
from criu_agent.repo import hostfile, keyfile, wrap
from tests.fakes.keys import NOW, secret

SIGNER = secret().current.signer
STRANGER = 54321  # a uid


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "key"


def made(path: Path) -> str:
    """A key file; the text of its identity."""
    one = wrap.generate()
    keyfile.make(path, one, SIGNER, created=NOW)
    return str(one)


def given_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """The file belongs to somebody else than who reads it: his uid."""
    if os.geteuid() == 0:
        os.chown(path, STRANGER, -1)
        return STRANGER
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
    return os.getuid()


def test_a_key_file_comes_back_with_its_identity_and_signer(path: Path) -> None:
    text = made(path)
    found = keyfile.read(path)
    assert [str(one) for one in found.identities] == [text]
    assert found.signers == {SIGNER}
    assert text not in repr(found)


def test_a_key_file_is_private_whatever_the_umask_is(path: Path) -> None:
    before = os.umask(0)
    try:
        made(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_key_file_is_never_overwritten_also_not_through_a_link(path: Path, tmp_path: Path) -> None:
    text = made(path)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for taken in (path, tmp_path / "link"):
        with pytest.raises(Usage, match="there already"):
            made(taken)
    assert text in path.read_text()
    assert not (tmp_path / "elsewhere").exists()


def test_a_key_file_that_cannot_be_made_is_a_failure_and_nothing_is_left(path: Path, monkeypatch) -> None:
    with pytest.raises(Failure, match=r"cannot write .*directory"):
        made(path / "no" / "directory")

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hostfile.os, "fsync", full)
    with pytest.raises(Failure, match="no space left"):
        made(path)
    assert not path.exists()


def test_a_file_of_age_keygen_is_read(path: Path) -> None:
    one = wrap.generate()
    path.write_text(f"# created: 2026-11-21T03:14:15+01:00\n# public key: {wrap.recipient_of(one)}\n{one}\n")
    path.chmod(0o600)
    found = keyfile.read(path)
    assert [str(each) for each in found.identities] == [str(one)]
    assert found.signers == frozenset()


def test_several_identities_and_signers_and_odd_line_ends_are_read() -> None:
    one, other = wrap.generate(), wrap.generate()
    text = f"\r\n{one}\r\n\n  {other}  \n#signer:{'0a' * 32}\n# signer: {'0b' * 32}  \n# signers are trusted\n"
    found = keyfile.parse(text.encode(), "it")
    assert [str(each) for each in found.identities] == [str(one), str(other)]
    assert found.signers == {b"\x0a" * 32, b"\x0b" * 32}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it has no key"),
        ("# signer: " + "0a" * 32, "it has no key"),
        ("# signer: 0a0b\n", "line 1: a signer has 64 hex digits"),
        ("# signer: " + "0A" * 32, "line 1: a signer"),
        ("\nAGE-SECRET-KEY-1QQQ", "line 2: this is no age identity"),
        ("age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p", "line 1"),
        ("\udcff\udcfe", "line 1"),
    ],
)
def test_a_line_that_is_not_understood_is_named_and_not_repeated(text: str, said: str) -> None:
    with pytest.raises(WrongKey, match=said) as caught:
        keyfile.parse(text.encode(errors="surrogateescape"), "it")
    assert "QQQ" not in str(caught.value)
    assert "age1ql" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o666, 0o777])
def test_a_key_file_that_others_can_use_is_refused(path: Path, mode: int) -> None:
    made(path)
    path.chmod(mode)
    with pytest.raises(WrongKey, match="others can read or write") as caught:
        keyfile.read(path)
    assert caught.value.exit_code == 12
    assert "chmod 600" in caught.value.hint


def test_a_key_file_that_is_read_only_is_read(path: Path) -> None:
    made(path)
    path.chmod(0o400)
    assert keyfile.read(path).signers == {SIGNER}


def test_a_key_file_of_somebody_else_is_refused_unless_he_is_who_called(path: Path, monkeypatch) -> None:
    made(path)
    owner = given_away(path, monkeypatch)
    with pytest.raises(WrongKey, match=f"belongs to uid {owner}"):
        keyfile.read(path)
    assert keyfile.read(path, owners=[owner]).signers == {SIGNER}


def test_what_is_no_regular_file_is_refused_and_does_not_hang(path: Path) -> None:
    os.mkfifo(path, 0o600)
    with pytest.raises(WrongKey, match="not a regular file"):
        keyfile.read(path)
    with pytest.raises(WrongKey, match="not a regular file"):
        keyfile.read(path.parent)


def test_a_link_to_a_key_file_is_followed_and_the_file_is_what_counts(path: Path, tmp_path: Path) -> None:
    made(path)
    (tmp_path / "link").symlink_to(path)
    assert keyfile.read(tmp_path / "link").signers == {SIGNER}
    path.chmod(0o644)
    with pytest.raises(WrongKey):
        keyfile.read(tmp_path / "link")


def test_a_missing_or_endless_key_file_is_refused(path: Path) -> None:
    with pytest.raises(NotFound, match="no key file"):
        keyfile.read(path)
    path.write_bytes(b"#" * 70_000)
    path.chmod(0o600)
    with pytest.raises(WrongKey, match="more than 65536 bytes"):
        keyfile.read(path)
