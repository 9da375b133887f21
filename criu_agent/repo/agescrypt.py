"""Passphrase files of age (age-encryption.org/v1, one scrypt stanza), with a work factor that is fixed.

pyrage writes and reads them, too, but it times the host first, and by that decides what it writes and what it
refuses. Measured with pyrage 1.4 on one host: it wrote 2^18 and, minutes later, 2^20 (1 GiB, 5 s); it read 2^23
(8 GiB, 57 s) and refused 2^24; and a loaded host writes, and accepts, less. A key must open wherever it is needed,
and a hostile one must cost nothing. Only the composition is here, as the specification has it; the primitives are
those of `cryptography`, and tests hold it against pyrage in both directions.
"""

import base64
import re
import secrets
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

LOG_N = 17  # 128 MiB (128 * 8 * 2^17 bytes) and about half a second; what OWASP asks for
_SALT = b"age-encryption.org/v1/scrypt"
_CHUNK = 64 << 10
_TAG = 16
_FILE_KEY = 16  # bytes; so is a salt, and the nonce of the payload
_NONCE = bytes(12)  # of a key that encrypts one message
# The grammar for exactly one stanza: a file with another beside it is no passphrase file.
_HEADER = re.compile(
    rb"(age-encryption\.org/v1\n"
    rb"-> scrypt ([A-Za-z0-9+/]{22}) ([1-9][0-9]?)\n"
    rb"([A-Za-z0-9+/]{43})\n"
    rb"---) ([A-Za-z0-9+/]{43})\n"
)


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """A passphrase file: the header up to its MAC, and what is in it."""

    header: bytes
    salt: bytes
    log_n: int
    wrapped_key: bytes = field(repr=False)
    mac: bytes
    payload: bytes = field(repr=False)


def encrypt(plain: bytes, passphrase: bytes, *, log_n: int = LOG_N) -> bytes:
    file_key, salt, nonce = (secrets.token_bytes(_FILE_KEY) for _ in range(3))
    wrapped_key = ChaCha20Poly1305(_scrypt(passphrase, salt, log_n)).encrypt(_NONCE, file_key, None)
    stanza = b"-> scrypt %s %d\n%s\n" % (_base64(salt), log_n, _base64(wrapped_key))
    header = b"age-encryption.org/v1\n" + stanza + b"---"
    mac = _mac(file_key, header).finalize()
    return b"".join([header, b" ", _base64(mac), b"\n", nonce, *_encrypt_payload(file_key, nonce, plain)])


def is_affordable(data: bytes) -> bool:
    """Is it a passphrase file whose work factor is not above ours?"""
    parts = _parse(data)
    return parts is not None and parts.log_n <= LOG_N


def decrypt(data: bytes, passphrase: bytes) -> bytes | None:
    """The plain bytes; None for another passphrase, and for what is damaged or not affordable."""
    parts = _parse(data)
    if parts is None or parts.log_n > LOG_N:
        return None
    try:
        cipher = ChaCha20Poly1305(_scrypt(passphrase, parts.salt, parts.log_n))
        file_key = cipher.decrypt(_NONCE, parts.wrapped_key, None)
        _mac(file_key, parts.header).verify(parts.mac)
        return _decrypt_payload(file_key, parts.payload)
    except (InvalidTag, InvalidSignature):
        return None


def _parse(data: bytes) -> _Parts | None:
    match = _HEADER.match(data)
    if not match:
        return None
    encoded = (match[2], match[4], match[5])
    salt, wrapped_key, mac = (base64.b64decode(one + b"==") for one in encoded)
    if tuple(map(_base64, (salt, wrapped_key, mac))) != encoded:
        return None  # bits behind the end: one file must not have two forms
    payload = data[match.end() :]
    return _Parts(header=match[1], salt=salt, log_n=int(match[3]), wrapped_key=wrapped_key, mac=mac, payload=payload)


def _scrypt(passphrase: bytes, salt: bytes, log_n: int) -> bytes:
    return Scrypt(salt=_SALT + salt, length=32, n=1 << log_n, r=8, p=1).derive(passphrase)


def _mac(file_key: bytes, header: bytes) -> HMAC:
    mac = HMAC(_derive(file_key, b"", b"header"), SHA256())
    mac.update(header)
    return mac


def _derive(file_key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(file_key)


def _chunk_nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _encrypt_payload(file_key: bytes, nonce: bytes, plain: bytes) -> list[bytes]:
    cipher = ChaCha20Poly1305(_derive(file_key, nonce, b"payload"))
    starts = range(0, max(len(plain), 1), _CHUNK)
    return [
        cipher.encrypt(_chunk_nonce(number, start == starts[-1]), plain[start : start + _CHUNK], None)
        for number, start in enumerate(starts)
    ]


def _decrypt_payload(file_key: bytes, payload: bytes) -> bytes:
    """InvalidTag if it is not whole."""
    cipher = ChaCha20Poly1305(_derive(file_key, payload[:_FILE_KEY], b"payload"))
    sealed, step = payload[_FILE_KEY:], _CHUNK + _TAG
    starts = range(0, max(len(sealed), 1), step)
    plain = [
        cipher.decrypt(_chunk_nonce(number, start == starts[-1]), sealed[start : start + step], None)
        for number, start in enumerate(starts)
    ]
    if len(plain) > 1 and not plain[-1]:
        raise InvalidTag  # the specification allows an empty chunk for an empty file alone
    return b"".join(plain)


def _base64(data: bytes) -> bytes:
    """Standard alphabet, without padding."""
    return base64.b64encode(data).rstrip(b"=")
