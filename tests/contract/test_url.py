"""What the user calls a store."""

import subprocess
import sys
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


@pytest.mark.parametrize("url", ["", "ftp://host/x", "file://host/x", "file://", "file:///a?b"])
def test_another_url_is_a_usage_error_with_a_hint(url: str) -> None:
    with pytest.raises(Usage) as caught:
        open_store(url)
    assert "file:///path" in caught.value.hint


@pytest.mark.parametrize(
    "url",
    ["s3://", "s3:///prefix", "s3://key:secret@bucket/x", "s3://b:1/x", "s3://b/x?y", "s3://b/a b", "s3://b/a//b"],
)
def test_what_names_no_bucket_and_prefix_is_a_usage_error_without_what_may_be_secret(url: str) -> None:
    with pytest.raises(Usage) as caught:
        open_store(url)
    assert "secret" not in f"{caught.value.message}{caught.value.hint}"


@pytest.mark.parametrize(
    "endpoint", ["ftp://host", "https://key:secret@host", "https://host/?x=secret", "://", "host"]
)
def test_an_endpoint_that_cannot_be_is_a_usage_error(endpoint: str) -> None:
    with pytest.raises(Usage) as caught:
        open_store("s3://bucket/prefix", endpoint_url=endpoint)
    assert "secret" not in f"{caught.value.message}{caught.value.hint}"


def test_s3_is_imported_only_when_a_bucket_is_opened() -> None:
    code = "import sys; from criu_agent.store.url import open_store; open_store('memory:'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "criu_agent.store.memory" in loaded
    assert not {"boto3", "botocore", "obstore", "criu_agent.store.s3"} & set(loaded)
