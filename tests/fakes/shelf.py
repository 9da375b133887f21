"""Where a tree can be saved and read back without a repository: in memory, equal bytes as one blob."""

from collections.abc import Iterable, Iterator

from criu_agent.model import Blob, Source
from criu_agent.repo.table import part
from criu_agent.repo.windows import PAGE, page_count

_PIECE = 1 << 20


class Shelf:
    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.streams: list[str] = []

    def save(self, sources: Iterable[Source]) -> list[Blob]:
        return [self._put(source) for source in sources]

    def put(self, data: bytes) -> Blob:
        if not data:
            return Blob(size=0, extents=())
        if data not in self.data:
            self.data.append(data)
        return Blob(size=len(data), extents=((self.data.index(data), 0, page_count(len(data))),))

    def stream(self, blob: Blob) -> Iterator[bytes]:
        for number, first, count in blob.extents:
            whole = self.data[number]
            end = min((first + count) * PAGE, len(whole))
            for at in range(first * PAGE, end, _PIECE):
                yield whole[at : min(at + _PIECE, end)]

    def _put(self, source: Source) -> Blob:
        self.streams.append(source.stream)
        buffer = bytearray(source.size - sum(part.pages for _, part in source.taken) * PAGE)
        view = memoryview(buffer)
        while view:
            count = source.content.readinto(view)
            assert count, f"{source.stream} ended early"
            view = view[count:]
        return self._with_taken(source, self.put(bytes(buffer))) if source.taken else self.put(bytes(buffer))

    def _with_taken(self, source: Source, new: Blob) -> Blob:
        """All blobs are of one shelf: what is taken over keeps its place."""
        pages = [(number, first + page) for number, first, count in new.extents for page in range(count)]
        for at, part_ in source.taken:
            old = part(part_.blob.extents, part_.first, part_.pages)
            pages[at:at] = [(number, first + page) for number, first, count in old for page in range(count)]
        assert len(pages) * PAGE == source.size
        return Blob(size=source.size, extents=tuple((number, page, 1) for number, page in pages))
