"""What the user calls a store."""

from pathlib import Path

import pytest

from criu_agent.errors import Usage
from criu_agent.store.file import FileStore
from criu_agent.store.memory import MemoryStore
from criu_agent.store.url import open_store


def test_a_path_a_file_url_and_memory_open_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    roots = [open_store(url) for url in (str(tmp_path / "r"), f"file://{tmp_path}/a%20b", "r:1", "rel/ative")]
    assert [store.root for store in roots if isinstance(store, FileStore)] == [
        tmp_path / "r",
        tmp_path / "a b",
        tmp_path / "r:1",
        tmp_path / "rel/ative",
    ]
    assert isinstance(open_store("memory:"), MemoryStore)


@pytest.mark.parametrize("url", ["", "s3://bucket/prefix", "ftp://host/x", "file://host/x", "file://", "file:///a?b"])
def test_another_url_is_a_usage_error_with_a_hint(url: str) -> None:
    with pytest.raises(Usage) as caught:
        open_store(url)
    assert "file:///path" in caught.value.hint


def test_s3_says_that_this_version_does_not_have_it() -> None:
    with pytest.raises(Usage, match="S3 yet"):
        open_store("s3://bucket/prefix")
