"""Copy a snapshot into another repository: each piece decrypted and verified here, named and encrypted with the keys
there. What the snapshot before it has there already is not stored again."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from criu_agent.model import Blob, Contents, Extent, Snapshot, Source, Table, Tree
from criu_agent.repo.reading import Reader
from criu_agent.repo.repository import Repository
from criu_agent.repo.table import ZEROS, part
from criu_agent.repo.windows import page_count
from criu_agent.repo.writer import Writer

Advance = Callable[[int], None]


def copy(source: Repository, snapshot: Snapshot, writer: Writer, *, parent: str, advance: Advance) -> Snapshot:
    """The snapshot in the other repository, with `parent` there. `advance` is told plain bytes of pieces."""
    contents = source.contents(snapshot)
    reader = source.reader(snapshot, contents)
    pieces = writer.save(_pieces(contents.table, reader), advance=advance)
    moved = Contents(
        table=Table(packs=(), pieces=()),
        images={name: _moved(blob, pieces) for name, blob in contents.images.items()},
        attachments={name: _moved(blob, pieces) for name, blob in contents.attachments.items()},
        trees={
            name: Tree(index=_moved(tree.index, pieces), blobs=tuple(_moved(blob, pieces) for blob in tree.blobs))
            for name, tree in contents.trees.items()
        },
    )
    return writer.commit(replace(snapshot.manifest, tags=snapshot.tags, parent=parent), moved)


def size(contents: Contents) -> int:
    """What `advance` is told in all."""
    return sum(piece.plain for piece in contents.table.pieces)


def _pieces(table: Table, reader: Reader) -> Iterator[Source]:
    """Each piece as a stream of its own, so that it is one piece again."""
    for number, piece in enumerate(table.pieces):
        whole = Blob(size=piece.plain, extents=((number, 0, page_count(piece.plain)),))
        content = io.BytesIO(b"".join(reader.stream(whole)))
        yield Source(stream=f"piece/{number}", size=piece.plain, content=content)


def _moved(blob: Blob, pieces: Sequence[Blob]) -> Blob:
    extents: list[Extent] = []
    for piece, first, count in blob.extents:
        extents += [(ZEROS, 0, count)] if piece == ZEROS else part(pieces[piece].extents, first, count)
    return Blob(size=blob.size, extents=tuple(extents))
