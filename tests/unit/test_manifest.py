"""Manifests: what is encoded is decoded, and nothing else is."""

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from criu_agent.errors import Corrupt, Failure
from criu_agent.model import Blob, Contents, Extent, Host, Manifest, Pack, Piece, Table, Tree
from criu_agent.repo import manifest as manifests_of
from criu_agent.repo.manifest import SIZE_LIMIT, contents_of, decode, decode_head, encode

names = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,20}", fullmatch=True)
# what os.fsdecode makes of any bytes: text, and a lone surrogate for each byte that is not UTF-8
texts = st.binary(max_size=20).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)
PIECES = tuple(Piece(f"{n:032x}", n % 2, 5000 * n, 5000, 4096 * (n + 1)) for n in range(4))
TABLE = Table(packs=(Pack("aa" * 16, 32768), Pack("bb" * 16, 32768)), pieces=PIECES)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def blobs(draw: st.DrawFn) -> Blob:
    pieces = draw(st.lists(st.integers(-1, 3), max_size=4))
    extents: list[Extent] = [(one, 0, one + 1 if one >= 0 else draw(st.integers(1, 9))) for one in pieces]
    pages = sum(count for _, _, count in extents)
    return Blob(size=pages * 4096 - draw(st.integers(0, 4095 if pages else 0)), extents=tuple(extents))


hosts = st.builds(
    Host,
    hostname=texts,
    boot_id=texts,
    kernel=texts,
    machine=texts,
    page_size=st.integers(12, 20).map(lambda bits: 1 << bits),
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
    resources=st.dictionaries(names, json_values, max_size=3),
    size=st.integers(0, 1 << 50),
    stored=st.integers(0, 1 << 50),
)
contents = st.builds(
    Contents,
    table=st.just(TABLE),
    images=st.dictionaries(names, blobs(), max_size=4),
    trees=st.dictionaries(
        names, st.builds(Tree, index=blobs(), blobs=st.lists(blobs(), max_size=3).map(tuple)), max_size=2
    ),
    attachments=st.dictionaries(names, blobs(), max_size=2),
)


def example() -> dict[str, Any]:
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
        "resources": {"term": {"rows": 24}},
        "size": 9,
        "stored": 7,
    }


def where() -> dict[str, Any]:
    blob = {"size": 4096 + 5, "extents": [0, 0, 1, -1, 0, 1]}
    return {
        "packs": [["aa" * 16, 32768]],
        "pieces": [["cc" * 16, 0, 0, 5000, 4096]],
        "images": {"core-1.img": blob},
        "trees": {"upper": {"index": blob, "blobs": [blob]}},
        "attachments": {"scrollback": blob},
    }


def line(document: object) -> bytes:
    return json.dumps(document).encode() + b"\n"


def decoded(document: object) -> Manifest:
    return decode(line(document) + line(where()), "snapshot 1a2b")[0]


def located(document: object) -> Contents:
    return contents_of(line(document), "snapshot 1a2b")


@settings(deadline=None)
@given(manifests, contents)
def test_a_manifest_comes_back_as_it_was(manifest: Manifest, stored: Contents) -> None:
    data = encode(manifest, stored)
    again, body = decode(data, "it")
    assert (again, contents_of(body, "it")) == (manifest, stored)
    assert encode(again, stored) == data


def test_equal_manifests_have_equal_bytes_whatever_order_they_were_made_in() -> None:
    document = example()
    backwards = dict(reversed(document.items()))
    assert encode(decoded(document), located(where())) == encode(decoded(backwards), located(where()))


def test_unknown_fields_are_ignored_at_every_level() -> None:
    document, stored = example(), where()
    expected = decoded(document), located(stored)
    document["later"] = [1]
    document["host"]["later"] = {}
    stored["later"] = 1
    stored["images"]["core-1.img"] = {**stored["images"]["core-1.img"], "later": None}
    stored["trees"]["upper"]["later"] = 0
    assert (decoded(document), located(stored)) == expected


@pytest.mark.parametrize("key", sorted(example()))
def test_every_field_must_be_there(key: str) -> None:
    document = example()
    del document[key]
    with pytest.raises(Corrupt, match=key):
        decoded(document)


@pytest.mark.parametrize("key", sorted(where()))
def test_every_part_of_the_contents_must_be_there(key: str) -> None:
    document = where()
    del document[key]
    with pytest.raises(Corrupt, match="snapshot 1a2b"):
        located(document)


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
        {"resources": {"a/b": 1}},
        {"resources": []},
        {"stored": "7"},
        {"size": -1},
    ],
)
def test_a_field_that_is_not_as_it_should_be_is_corrupt(change: dict[str, Any]) -> None:
    assert decoded(example())
    with pytest.raises(Corrupt, match="snapshot 1a2b"):
        decoded(example() | change)


NONE = {"size": 0, "extents": []}
PIECE = ["cc" * 16, 0, 0, 5000, 4096]
HOSTILE = [
    {"images": {"../core": NONE}},
    {"images": {".hidden": NONE}},
    {"images": {"a/b": NONE}},
    {"images": {"..": NONE}},
    {"images": {"a\x00b": NONE}},
    {"images": {"a" * 129: NONE}},
    {"images": {"a": {"size": 5, "extents": []}}},
    {"images": {"a": {"size": 0, "extents": [0, 0, 1]}}},
    {"images": {"a": {"size": -1, "extents": []}}},
    {"images": {"a": {"size": 1 << 62, "extents": [-1, 0, 1 << 50]}}},
    {"images": {"a": {"size": 4096, "extents": [0, 0, 1, 0]}}},
    {"images": {"a": {"size": 4096, "extents": [1, 0, 1]}}},
    {"images": {"a": {"size": 4096, "extents": [-2, 0, 1]}}},
    {"images": {"a": {"size": 4096, "extents": [0, 1, 1]}}},
    {"images": {"a": {"size": 4096, "extents": [0, -1, 1]}}},
    {"images": {"a": {"size": 4096, "extents": [0, 0, 0]}}},
    {"images": {"a": {"size": 4096, "extents": [0, 0, -1, 0, 0, 2]}}},
    {"images": {"a": {"size": 8192, "extents": [0, 0, 2]}}},
    {"images": {"a": {"size": 4096, "extents": [-1, 5, 1]}}},
    {"images": {"a": {"size": 4096, "extents": [True, 0, 1]}}},
    {"images": {"a": {"size": 4096, "extents": [0.0, 0, 1]}}},
    {"images": {"a": {"size": 4096, "extents": ["0", 0, 1]}}},
    {"images": {"a": {"size": 4096, "extents": {"0": 1}}}},
    {"images": {"a": {"size": "4096", "extents": [0, 0, 1]}}},
    {"images": {"a": []}},
    {"images": []},
    {"trees": {"upper": {"index": NONE}}},
    {"trees": {"upper": {"index": NONE, "blobs": [{}]}}},
    {"trees": {"upper": {"index": NONE, "blobs": NONE}}},
    {"trees": {"a/../b": {"index": NONE, "blobs": []}}},
    {"attachments": {"x y": NONE}},
    {"packs": [["../../../etc/passwd", 32768]]},
    {"packs": [["aa" * 16 + "\n", 32768]]},
    {"packs": [["AA" * 16, 32768]]},
    {"packs": [["aa" * 16, 0]]},
    {"packs": [["aa" * 16, (16 << 20) + 1]]},
    {"packs": [["aa" * 16, 32768], ["aa" * 16, 32768]]},
    {"packs": [["aa" * 16]]},
    {"packs": "aa"},
    {"pieces": [PIECE, PIECE]},
    {"pieces": [["cc" * 16, 1, 0, 5000, 4096]]},
    {"pieces": [["cc" * 16, -1, 0, 5000, 4096]]},
    {"pieces": [["cc" * 16, 0, -1, 5000, 4096]]},
    {"pieces": [["cc" * 16, 0, 30000, 5000, 4096]]},
    {"pieces": [["cc" * 16, 0, 1 << 62, 5000, 4096]]},
    {"pieces": [["cc" * 16, 0, 0, 0, 4096]]},
    {"pieces": [["cc" * 16, 0, 0, 5000, 1 << 40]]},
    {"pieces": [["cc" * 16, 0, 0, 5000, 0]]},
    {"pieces": [["cc" * 16, 0, 0, 1 << 20, 4096]]},
    {"pieces": [["/" * 32, 0, 0, 5000, 4096]]},
    {"pieces": [["cc" * 16, 0, 0, 5000]]},
    {"pieces": [None]},
]


@pytest.mark.parametrize("change", HOSTILE)
def test_hostile_contents_are_refused(change: dict[str, Any]) -> None:
    assert located(where())
    with pytest.raises(Corrupt, match="snapshot 1a2b"):
        located(where() | change)


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
        b"[" + b"[]," * 2_000_000 + b"[]]",
        b"[" + b"0," * 5_000_000 + b"0]",
    ],
)
def test_what_is_not_strict_json_or_too_much_of_it_is_corrupt(body: bytes) -> None:
    with pytest.raises(Corrupt, match="snapshot 1a2b"):
        decode(body[: 1 << 20] + b"\n" + line(where()), "snapshot 1a2b")
    with pytest.raises(Corrupt, match="snapshot 1a2b"):
        contents_of(body, "snapshot 1a2b")


@pytest.mark.parametrize("data", [b"", b"{}", b"\n", line(example()), line(example()) + b"{}"])
def test_what_is_not_two_lines_is_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt, match="two lines"):
        decode(data, "snapshot 1a2b")


def test_a_manifest_beyond_the_limit_is_corrupt_unparsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests_of, "from_json", None)
    with pytest.raises(Corrupt, match="too long"):
        decode(line(example()) + b" " * SIZE_LIMIT + b"\n", "snapshot 1a2b")


def test_a_list_needs_the_first_line_alone() -> None:
    data = line(example()) + line(where())
    assert decode_head(data[: len(line(example()))], "it") == decoded(example())
    with pytest.raises(Corrupt, match="first line"):
        decode_head(line(example())[:-1], "it")


def test_a_run_that_is_too_large_for_a_manifest_is_told_so() -> None:
    for change in ({"argv": ("x" * (5 << 20),)}, {"labels": {"a": "ü" * (1 << 20)}}):
        with pytest.raises(Failure, match="too large for a snapshot"):
            encode(replace(decoded(example()), **change), located(where()))
    waiting = {"terminal": {"pending": base64.b64encode(bytes(2 << 20)).decode()}}
    encode(replace(decoded(example()), resources=waiting), located(where()))  # what a session may have waiting, twice


@pytest.mark.parametrize("size", [0, 1, 2048, 4097, 12288, 1 << 21])
def test_pages_of_a_size_that_no_kernel_has_are_corrupt(size: int) -> None:
    document = example()
    document["host"]["page_size"] = size
    with pytest.raises(Corrupt, match="page"):
        decoded(document)


def test_what_could_not_be_read_back_is_not_encoded() -> None:
    nameless = replace(located(where()), images={"a/b": Blob(size=0, extents=())})
    with pytest.raises(ValueError, match="a/b"):
        encode(decoded(example()), nameless)
