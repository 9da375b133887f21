"""Manifests to bytes and back: the plain content of the envelope (docs/format.md).

Two lines of JSON: what a list of snapshots shows, and where the contents are stored. The second, which grows with
the memory of the run, is parsed only when it is needed.
"""

from dataclasses import asdict
from typing import Any

from criu_agent.errors import Corrupt, Failure
from criu_agent.model import Contents, Host, Manifest, Tree
from criu_agent.repo import table
from criu_agent.repo.fields import Fields
from criu_agent.repo.table import Blobs
from criu_agent.store.document import from_json, to_json

SIZE_LIMIT = 64 << 20  # plain bytes of a manifest
HEAD_LIMIT = 4 << 20  # of its first line: it has the arguments, and input that no program has read yet
# What may be parsed into objects: 64 MiB of `[[],[],...]` would take gigabytes of memory.
_VALUES = 4 << 20
_CONTAINERS = 1 << 20
_LARGEST_PAGE = 1 << 20


def encode(manifest: Manifest, contents: Contents) -> bytes:
    """The plain bytes of a manifest, which can be read again. Failure for what is too large for one."""
    head, body = to_json(asdict(manifest)), _encode_contents(contents)
    if len(head) >= HEAD_LIMIT or len(head) + len(body) + 2 > SIZE_LIMIT:
        raise Failure(
            f"this is too large for a snapshot: its manifest would have {len(head)} and {len(body)} bytes",
            hint="it has arguments, labels or waiting input of several MiB, or memory of more than 256 GiB",
        )
    data = head + b"\n" + body + b"\n"
    try:
        _, again = decode(data, "this manifest")
        contents_of(again, "this manifest")
    except Corrupt as error:
        raise ValueError(error.message) from error
    return data


def decode(data: bytes, what: str) -> tuple[Manifest, bytes]:
    """The manifest in `data`, and the part that `contents_of` parses; `what` names it in errors ("snapshot 1a2b").

    Corrupt for any field that is not as it should be. Keys that we do not know are ignored.
    """
    body = body_of(data, what)
    return decode_head(data, what), body


def decode_head(data: bytes, what: str) -> Manifest:
    """Of the first HEAD_LIMIT bytes, or more, of a manifest. Corrupt as in `decode`."""
    end = data.find(b"\n", 0, HEAD_LIMIT)
    if end < 0:
        raise Corrupt(f"{what} is changed: its first line is too long, or has no end")
    return _manifest(Fields(from_json(_bounded(data[:end], what), what), what))


def body_of(data: bytes, what: str) -> bytes:
    """The second line. Corrupt if there are not two."""
    _, end, body = data.partition(b"\n")
    if len(data) > SIZE_LIMIT or not end or not body.endswith(b"\n"):
        raise Corrupt(f"{what} is changed: it is not two lines of JSON, or too long")
    return body


def contents_of(body: bytes, what: str) -> Contents:
    """Parse the second line. Corrupt for whatever breaks a rule of the format or one of its limits."""
    fields = Fields(from_json(_bounded(body, what), what), what)
    found = table.from_documents(fields.any("packs"), fields.any("pieces"), what)
    blobs = Blobs(found, what)
    return Contents(
        table=found,
        images=fields.named("images", lambda inner, key: blobs.read(inner.any(key))),
        trees=fields.named("trees", lambda inner, key: _tree(inner.inner(key), blobs)),
        attachments=fields.named("attachments", lambda inner, key: blobs.read(inner.any(key))),
    )


def _bounded(line: bytes, what: str) -> bytes:
    if line.count(b",") > _VALUES or line.count(b"[") + line.count(b"{") > _CONTAINERS:
        raise Corrupt(f"{what} is changed: it has more values than a manifest may have")
    return line


def _encode_contents(contents: Contents) -> bytes:
    packs, pieces = table.to_documents(contents.table)
    return to_json(
        {
            "packs": packs,
            "pieces": pieces,
            "images": {name: table.to_document(blob) for name, blob in contents.images.items()},
            "attachments": {name: table.to_document(blob) for name, blob in contents.attachments.items()},
            "trees": {name: _tree_document(tree) for name, tree in contents.trees.items()},
        }
    )


def _tree_document(tree: Tree) -> dict[str, Any]:
    return {"index": table.to_document(tree.index), "blobs": [table.to_document(blob) for blob in tree.blobs]}


def _tree(fields: Fields, blobs: Blobs) -> Tree:
    documents = fields.any("blobs")
    if not isinstance(documents, list):
        raise Corrupt(f"{fields.what} is changed: 'blobs' is not a list of blobs")
    return Tree(index=blobs.read(fields.any("index")), blobs=tuple(map(blobs.read, documents)))


def _manifest(fields: Fields) -> Manifest:
    return Manifest(
        run_id=fields.name("run_id"),
        run_name=fields.name("run_name"),
        sequence=fields.integer("sequence", least=1),
        parent=fields.snapshot_id("parent"),
        created=fields.time("created"),
        reason=fields.text("reason"),
        stopped=fields.flag("stopped"),
        argv=fields.texts("argv"),
        workdir=fields.text("workdir"),
        labels=fields.mapping("labels", Fields.text),
        tags=fields.texts("tags"),
        host=_host(fields.inner("host")),
        resources=fields.named("resources", Fields.any),
        size=fields.integer("size"),
        stored=fields.integer("stored"),
    )


def _host(fields: Fields) -> Host:
    return Host(
        hostname=fields.text("hostname"),
        boot_id=fields.text("boot_id"),
        kernel=fields.text("kernel"),
        machine=fields.text("machine"),
        page_size=_page_size(fields),
        criu=fields.text("criu"),
        cpu_model=fields.text("cpu_model") if "cpu_model" in fields.document else "",
        cpu_flags=fields.texts("cpu_flags") if "cpu_flags" in fields.document else (),
        cgroups=fields.text("cgroups") if "cgroups" in fields.document else "",
        time_namespaces=fields.flag("time_namespaces") if "time_namespaces" in fields.document else False,
        monotonic=fields.integer("monotonic") if "monotonic" in fields.document else 0,
    )


def _page_size(fields: Fields) -> int:
    """As kernels have: a power of two."""
    size = fields.integer("page_size", least=4096)
    if size > _LARGEST_PAGE or size & (size - 1):
        raise Corrupt(f"{fields.what} is changed: there are no pages of {size} bytes")
    return size
