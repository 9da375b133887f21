"""Passphrase files: age reads ours and we read those of age, and none that is hostile costs anything."""

import os
import re

import pyrage
import pytest

from criu_agent.repo import agescrypt
from criu_agent.repo.agescrypt import LOG_N, decrypt, encrypt, is_affordable

PASSPHRASE = "käse und brot".encode()
CHEAP = 4  # scrypt's memory is 16 KiB: what is tested is everything else


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 131072, 200_000])
def test_age_reads_what_we_write(size: int) -> None:
    plain = os.urandom(size)
    data = encrypt(plain, PASSPHRASE, log_n=CHEAP)
    assert pyrage.passphrase.decrypt(data, PASSPHRASE.decode()) == plain
    assert decrypt(data, PASSPHRASE) == plain
    assert decrypt(data, PASSPHRASE + b"x") is None


def test_we_read_what_age_writes_if_it_is_affordable(monkeypatch: pytest.MonkeyPatch) -> None:
    """age takes a second's work, which is 2^18 to 2^20 here: above ours, so our limit is raised for once."""
    data = pyrage.passphrase.encrypt(b"plain", PASSPHRASE.decode())
    match = re.match(rb"age-encryption.org/v1\n-> scrypt \S{22} ([0-9]+)\n", data)
    assert match, "age does not write the header that we expect"
    assert is_affordable(data) == (int(match[1]) <= LOG_N)
    monkeypatch.setattr(agescrypt, "LOG_N", 30)
    assert decrypt(data, PASSPHRASE) == b"plain"


def test_our_own_work_factor_is_the_fixed_one() -> None:
    data = encrypt(b"plain", PASSPHRASE)
    assert b" %d\n" % LOG_N in data
    assert is_affordable(data)
    assert decrypt(data, PASSPHRASE) == b"plain"


def test_every_flipped_bit_and_truncation_is_noticed() -> None:
    data = encrypt(b"plain", PASSPHRASE, log_n=CHEAP)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        assert decrypt(bytes(damaged), PASSPHRASE) is None, bit
    for length in range(len(data)):
        assert decrypt(data[:length], PASSPHRASE) is None, length
    assert decrypt(data + b"x", PASSPHRASE) is None


def test_chunks_that_were_cut_off_or_swapped_are_noticed() -> None:
    data = encrypt(os.urandom(200_000), PASSPHRASE, log_n=CHEAP)
    start, step = len(data) - (200_000 + 4 * 16), 65536 + 16
    first, second, rest = data[start:][:step], data[start + step :][:step], data[start + 2 * step :]
    assert decrypt(data[:start] + first + second + rest, PASSPHRASE) is not None
    for other in (first, first + second, second + first + rest, first + rest):
        assert decrypt(data[:start] + other, PASSPHRASE) is None


def test_an_empty_chunk_behind_others_is_refused_as_age_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_an_empty_chunk(file_key: bytes, nonce: bytes, plain: bytes) -> list[bytes]:
        cipher = agescrypt.ChaCha20Poly1305(agescrypt._derive(file_key, nonce, b"payload"))
        return [
            cipher.encrypt(agescrypt._chunk_nonce(0, last=False), plain, None),
            cipher.encrypt(agescrypt._chunk_nonce(1, last=True), b"", None),
        ]

    monkeypatch.setattr(agescrypt, "_encrypt_payload", with_an_empty_chunk)
    data = encrypt(bytes(65536), PASSPHRASE, log_n=CHEAP)
    assert decrypt(data, PASSPHRASE) is None
    with pytest.raises(pyrage.DecryptError):
        pyrage.passphrase.decrypt(data, PASSPHRASE.decode())


def never(*_args: object) -> bytes:
    raise AssertionError("scrypt was asked")


@pytest.mark.parametrize("log_n", [LOG_N + 1, 20, 23, 24, 30, 63, 64, 99])
def test_a_work_factor_above_ours_does_not_reach_scrypt(monkeypatch: pytest.MonkeyPatch, log_n: int) -> None:
    data = encrypt(b"plain", PASSPHRASE, log_n=CHEAP).replace(b" 4\n", b" %d\n" % log_n)
    monkeypatch.setattr(agescrypt, "_scrypt", never)
    assert not is_affordable(data)
    assert decrypt(data, PASSPHRASE) is None


def test_what_is_not_exactly_one_scrypt_stanza_does_not_reach_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    good = encrypt(b"plain", PASSPHRASE, log_n=CHEAP)
    stanza = good[good.index(b"->") : good.index(b"---")]
    salt_end = good.index(b" 4\n")
    last = good[salt_end - 1 : salt_end]
    other_bits = bytes([last[0] + 1]) if last != b"/" else b"A"
    monkeypatch.setattr(agescrypt, "_scrypt", never)
    for other in (
        b"",
        b"x",
        good.replace(b"v1\n", b"v2\n"),
        good.replace(b" 4\n", b" 04\n"),
        good.replace(b" 4\n", b" 4 23\n"),
        good.replace(b" 4\n", b" 0\n"),
        good.replace(b" 4\n", b" 100\n"),
        good.replace(b" 4\n", b" -4\n"),
        good.replace(b"---", stanza.replace(b" 4\n", b" 5\n") + b"---"),
        good.replace(b"->", b"-> X25519 " + b"A" * 43 + b"\n" + b"A" * 43 + b"\n->"),
        good.replace(b"scrypt", b"SCRYPT"),
        good[: salt_end - 1] + other_bits + good[salt_end:],  # the same salt, written with bits behind its end
        b"\n" + good,
        b"-----BEGIN AGE ENCRYPTED FILE-----\n",
    ):
        assert not is_affordable(other), other
        assert decrypt(other, PASSPHRASE) is None


def test_a_file_of_age_for_a_recipient_is_no_passphrase_file() -> None:
    identity = pyrage.x25519.Identity.generate()
    data = pyrage.encrypt(b"plain", [identity.to_public()])
    assert not is_affordable(data)
    assert decrypt(data, PASSPHRASE) is None
