"""Which commit a work tree has checked out, by its files alone."""

import pytest

from criu_agent.fs import githead

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LINE = f"{COMMIT}\n".encode()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no repository"),
        ({".git/HEAD": b"ref: refs/heads/main\n", ".git/refs/heads/main": LINE}, "main 01234567"),
        (
            {".git/HEAD": b"ref: refs/heads/a/b\n", ".git/packed-refs": b"# x\n" + LINE[:-1] + b" refs/heads/a/b\n"},
            "a/b 01234567",
        ),
        ({".git/HEAD": b"ref: refs/heads/main\n"}, "main, no commit"),
        ({".git/HEAD": LINE}, "01234567"),
        ({".git/HEAD": b"ref: refs/../../../etc/passwd\n", ".git/refs/../../../etc/passwd": LINE}, "no repository"),
        ({".git/HEAD": b"\xff\xfe"}, "no repository"),
    ],
)
def test_the_head_of_a_work_tree(files: dict[str, bytes], said: str) -> None:
    assert githead.read(lambda path: files.get(path, b"")) == said
