"""Manifests: what is encoded is decoded, and nothing else is."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from criu_agent.errors import Corrupt, HostCannot
from criu_agent.model import Host, Manifest, Tree
from criu_agent.repo.chunks import CHUNK_SIZE, Blob
from criu_agent.repo.manifest import SIZE_LIMIT, VERSION, decode, encode

HEADER = b"criu-agent manifest 1\n"

names = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,20}", fullmatch=True)
# what os.fsdecode makes of any bytes: text, and a lone surrogate for each byte that is not UTF-8
texts = st.binary(max_size=20).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def blobs(draw: st.DrawFn) -> Blob:
    chunks = draw(st.lists(st.just("") | hashes, max_size=3))
    short = draw(st.integers(0, CHUNK_SIZE - 1)) if chunks else 0
    return Blob(size=len(chunks) * CHUNK_SIZE - short, chunks=tuple(chunks))


hosts = st.builds(
    Host,
    hostname=texts,
    boot_id=texts,
    kernel=texts,
    machine=texts,
    page_size=st.integers(1, 1 << 20),
    criu=texts,
)
manifests = st.builds(
    Manifest,
    run_id=names,
    run_name=names,
    sequence=st.integers(1, 1 << 40),
    parent=st.just("") | hashes,
    created=st.datetimes().map(lambda moment: moment.isoformat() + "Z"),
    reason=texts,
    stopped=st.booleans(),
    argv=st.lists(texts, max_size=4).map(tuple),
    workdir=texts,
    labels=st.dictionaries(texts, texts, max_size=3),
    tags=st.lists(texts, max_size=3).map(tuple),
    host=hosts,
    images=st.dictionaries(names, blobs(), max_size=4),
    trees=st.dictionaries(
        names, st.builds(Tree, index=blobs(), blobs=st.lists(blobs(), max_size=3).map(tuple)), max_size=2
    ),
    attachments=st.dictionaries(names, blobs(), max_size=2),
    resources=st.dictionaries(names, json_values, max_size=3),
    stored=st.integers(0, 1 << 50),
)


def example() -> dict[str, Any]:
    blob = {"size": 5, "chunks": ["ab" * 32]}
    return {
        "run_id": "r1",
        "run_name": "agent",
        "sequence": 1,
        "parent": "",
        "created": "2026-11-21T03:14:15.123456Z",
        "reason": "user",
        "stopped": True,
        "argv": ["bash"],
        "workdir": "/srv",
        "labels": {"a": "b"},
        "tags": ["t"],
        "host": {"hostname": "h", "boot_id": "b", "kernel": "6", "machine": "m", "page_size": 4096, "criu": "4"},
        "images": {"core-1.img": blob},
        "trees": {"upper": {"index": blob, "blobs": [blob]}},
        "attachments": {"scrollback": blob},
        "resources": {"term": {"rows": 24}},
        "stored": 7,
    }


def decoded(document: object) -> Manifest:
    return decode(HEADER + json.dumps(document).encode(), "snapshot 1a2b")


@settings(deadline=None)
@given(manifests)
def test_a_manifest_comes_back_as_it_was(manifest: Manifest) -> None:
    data = encode(manifest)
    assert decode(data, "it") == manifest
    assert encode(decode(data, "it")) == data


def test_equal_manifests_have_equal_bytes_whatever_order_they_were_made_in() -> None:
    document = example()
    backwards = dict(reversed(document.items()))
    assert encode(decoded(document)) == encode(decoded(backwards))


@pytest.mark.parametrize("rest", [b"", b"\x00\xff garbage", b"{" * 100_000, b"[]"])
def test_an_unknown_version_is_refused_whatever_comes_after_it(rest: bytes) -> None:
    with pytest.raises(HostCannot) as caught:
        decode(b"criu-agent manifest 7\n" + rest, "snapshot 1a2b")
    assert caught.value.message == f"snapshot 1a2b has format 7, this criu-agent reads up to {VERSION}"
    assert "upgrade" in caught.value.hint


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"criu-agent manifest 1",
        b"criu-agent manifest 01\n{}",
        b"criu-agent manifest -1\n{}",
        b"criu-agent manifest \n{}",
        b"criu-agent tree 1\n{}",
        b" criu-agent manifest 1\n{}",
    ],
)
def test_what_does_not_begin_as_a_manifest_is_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt, match="snapshot 1a2b is changed"):
        decode(data, "snapshot 1a2b")


def test_unknown_fields_are_ignored_at_every_level() -> None:
    document = example()
    expected = decoded(document)
    document["later"] = [1]
    document["host"]["later"] = {}
    document["images"]["core-1.img"] = {**document["images"]["core-1.img"], "later": None}
    document["trees"]["upper"]["later"] = 0
    assert decoded(document) == expected


@pytest.mark.parametrize("key", sorted(set(example()) - {"stored"}))
def test_every_field_must_be_there(key: str) -> None:
    document = example()
    del document[key]
    with pytest.raises(Corrupt, match=key):
        decoded(document)


@pytest.mark.parametrize(
    "change",
    [
        {"run_id": "../../etc"},
        {"run_id": ".."},
        {"run_name": "a\n"},
        {"run_name": ""},
        {"sequence": 0},
        {"sequence": True},
        {"sequence": 1.0},
        {"sequence": 1 << 63},
        {"parent": "AB" * 32},
        {"parent": "ab"},
        {"created": "yesterday"},
        {"created": "2026-11-21T03:14:15+01:00"},
        {"reason": None},
        {"stopped": 1},
        {"argv": "bash"},
        {"argv": [1]},
        {"labels": {"a": 1}},
        {"labels": []},
        {"tags": [None]},
        {"host": {}},
        {"host": "h"},
        {"images": {"../core": {"size": 0, "chunks": []}}},
        {"images": {".hidden": {"size": 0, "chunks": []}}},
        {"images": {"a/b": {"size": 0, "chunks": []}}},
        {"images": {"a": {"size": 5, "chunks": []}}},
        {"images": {"a": {"size": 0, "chunks": [""]}}},
        {"images": {"a": {"size": -1, "chunks": []}}},
        {"images": {"a": {"size": 1 << 62, "chunks": [""]}}},
        {"images": {"a": {"size": 5, "chunks": ["../../../etc/passwd"]}}},
        {"images": {"a": {"size": 5, "chunks": ["ab" * 32 + "\n"]}}},
        {"images": {"a": []}},
        {"trees": {"upper": {"index": {"size": 0, "chunks": []}}}},
        {"trees": {"upper": {"index": {"size": 0, "chunks": []}, "blobs": [{}]}}},
        {"attachments": {"x y": {"size": 0, "chunks": []}}},
        {"resources": {"a/b": 1}},
        {"resources": []},
        {"stored": "7"},
    ],
)
def test_a_field_that_is_not_as_it_should_be_is_corrupt(change: dict[str, Any]) -> None:
    assert decoded(example())
    with pytest.raises(Corrupt, match="snapshot 1a2b"):
        decoded(example() | change)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":2}',
        b"NaN",
        b"[" * 200_000,
        b'"\xc3\xa4"',
        b"{} {}",
        b"1" * 10_000,
        b"null",
        b"[]",
    ],
)
def test_what_is_not_strict_json_is_corrupt(body: bytes) -> None:
    with pytest.raises(Corrupt, match="snapshot 1a2b"):
        decode(HEADER + body, "snapshot 1a2b")


def test_a_manifest_beyond_the_limit_is_corrupt_unparsed() -> None:
    with pytest.raises(Corrupt, match="longer than"):
        decode(HEADER + b" " * SIZE_LIMIT, "snapshot 1a2b")


def test_what_could_not_be_read_back_is_not_encoded() -> None:
    nameless = replace(decoded(example()), images={"a/b": Blob(size=0, chunks=())})
    with pytest.raises(ValueError, match="a/b"):
        encode(nameless)
