"""One request each, of objects by their whole key. What does not succeed is an Answer; nothing is tried again here.

An answer can be cut in its head, or be the page of somebody in between; boto3 then takes what is missing for absent:
an empty list, an object without a length. So what S3 always says is asked for.
"""

from contextlib import closing
from dataclasses import dataclass
from typing import Any

import obstore

from criu_agent.store.base import REGISTER_LIMIT
from criu_agent.store.s3_client import Clients
from criu_agent.store.s3_errors import RANGE_IGNORED, Answer, cut, translated

BULK = 1 << 20  # bytes from which obstore is the quicker one


@dataclass(frozen=True, kw_only=True)
class Register:
    data: bytes
    etag: str


@dataclass(frozen=True, kw_only=True)
class Page:
    """Part of a listing: keys to sizes, and where it goes on, empty for nowhere."""

    sizes: dict[str, int]
    token: str


def read(clients: Clients, key: str, limit: int, offset: int) -> bytes:
    """Up to `limit` bytes from `offset` on."""
    try:
        if limit >= BULK:
            with translated():
                return obstore.get_range(clients.bulk, key, start=offset, length=limit).to_bytes()
        return _read_range(clients, key, max(limit, 1), offset)[:limit]  # a range has at least one byte
    except Answer as answer:
        if answer.status == 416:  # the object ends before
            return b""
        raise


def _read_range(clients: Clients, key: str, limit: int, offset: int) -> bytes:
    with translated():
        answer = clients.control.get_object(
            Bucket=clients.place.bucket, Key=key, Range=f"bytes={offset}-{offset + limit - 1}"
        )
        with closing(answer["Body"]) as body:
            length = _length(answer)
            if _status(answer) == 206:
                if not str(answer.get("ContentRange", "")).startswith(f"bytes {offset}-") or length > limit:
                    raise cut("the range of an object")
            elif length == 0:
                return b""  # Swift, of an empty object
            elif offset or length > limit:
                raise Answer(_status(answer), RANGE_IGNORED)
            return _whole(body.read(), length)


def read_register(clients: Clients, key: str) -> Register:
    """All of a register, and the tag to exchange it by. One that is too long is cut one byte behind the limit."""
    with translated():
        answer = clients.control.get_object(Bucket=clients.place.bucket, Key=key)
        with closing(answer["Body"]) as body:
            length = min(_length(answer), REGISTER_LIMIT + 1)
            return Register(data=_whole(body.read(length), length), etag=answer["ETag"])


def create(clients: Clients, key: str, data: bytes) -> None:
    """Make an object that is not there. Answer.refused if it is."""
    if len(data) >= BULK:
        with translated():
            obstore.put(clients.bulk, key, data, mode="create", use_multipart=False)
    else:
        _put(clients, key, data, IfNoneMatch="*")


def exchange(clients: Clients, key: str, data: bytes, etag: str) -> None:
    """Replace the object that has that tag. Answer.refused or .missing if it has not."""
    _put(clients, key, data, IfMatch=etag)


def overwrite(clients: Clients, key: str, data: bytes) -> None:
    """Make or replace an object, whatever is there."""
    if len(data) >= BULK:
        with translated():
            obstore.put(clients.bulk, key, data, mode="overwrite", use_multipart=False)
    else:
        _put(clients, key, data)


def _put(clients: Clients, key: str, data: bytes, **condition: Any) -> None:  # noqa: ANN401 - of boto3's call
    with translated():
        answer = clients.control.put_object(Bucket=clients.place.bucket, Key=key, Body=data, **condition)
    if not answer.get("ETag"):
        raise cut("the answer to a put")


def size(clients: Clients, key: str) -> int | None:
    """The length of an object, None if there is none."""
    try:
        with translated():
            return _length(clients.control.head_object(Bucket=clients.place.bucket, Key=key))
    except Answer as answer:
        if answer.missing:
            return None
        raise


def page(clients: Clients, prefix: str, token: str) -> Page:
    """The objects whose keys begin with `prefix`, from `token` on, or from the first if that is empty."""
    more: dict[str, Any] = {"ContinuationToken": token} if token else {}
    with translated():
        answer = clients.control.list_objects_v2(Bucket=clients.place.bucket, Prefix=prefix, **more)
    contents = answer.get("Contents", [])
    following = answer.get("NextContinuationToken", "") if answer.get("IsTruncated") else ""
    if (
        not answer.get("Name")
        or "IsTruncated" not in answer
        or answer.get("KeyCount", len(contents)) != len(contents)
        or (answer["IsTruncated"] and following in ("", token))
    ):
        raise cut("a listing")
    return Page(sizes={entry["Key"]: entry["Size"] for entry in contents}, token=following)


def remove(clients: Clients, key: str) -> None:
    """Delete an object; one that was not there is no error."""
    try:
        with translated():
            answer = clients.control.delete_object(Bucket=clients.place.bucket, Key=key)
    except Answer as error:
        if error.missing:
            return
        raise
    if answer["ResponseMetadata"]["HTTPHeaders"].get("content-length", "0") != "0":  # 204 has none
        raise cut("the answer to a delete")


def _status(answer: Any) -> int:  # noqa: ANN401 - any of boto3's answers
    return int(answer["ResponseMetadata"]["HTTPStatusCode"])


def _length(answer: Any) -> int:  # noqa: ANN401
    """The object's or range's length, from a whole head of an object: with a tag."""
    if answer.get("ContentLength") is None or not answer.get("ETag"):
        raise cut("the head of an object")
    return int(answer["ContentLength"])


def _whole(data: bytes, length: int) -> bytes:
    if len(data) != length:
        raise cut("an object")
    return data
