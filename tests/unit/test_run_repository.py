"""A run remembers where its snapshots are and what opens that; flags win over it, and it over the environment."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from criu_agent import config as configuration
from criu_agent import runs
from criu_agent.cli.context import Context
from criu_agent.config import Config
from criu_agent.errors import Usage, WrongKey
from criu_agent.model import RunSpec
from criu_agent.ops import passphrase, vault
from criu_agent.repo import keyfile

RUN = RunSpec(
    id="aa11",
    name="one",
    argv=("x",),
    workdir="/",
    env={},
    through=("/",),
    repository="s3://theirs/x",
    endpoint_url="http://theirs",
    key_file="/k/theirs",
)


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host on which nothing is configured but its directories."""
    for name in [name for name in os.environ if name.startswith(("CRIU_AGENT_", "AWS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CRIU_AGENT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("CRIU_AGENT_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setattr(configuration, "CONFIG_FILE", tmp_path / "config.toml")
    return tmp_path


def context(**flags: str) -> Context:
    made = Context()
    made.take(dict(flags))
    return made


def opens(config: Config) -> tuple[str, str, str]:
    return config.repository, config.endpoint_url, str(config.key_file or "")


def test_what_a_run_was_started_with_is_what_its_verbs_use(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRIU_AGENT_REPOSITORY", "s3://ours/y")
    monkeypatch.setenv("CRIU_AGENT_KEY_FILE", "/k/ours")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://ours")
    made = context()
    made.use_repository_of(RUN)
    assert opens(made.config) == ("s3://theirs/x", "http://theirs", "/k/theirs")


def test_flags_win_over_what_a_run_was_started_with(environment: Path) -> None:
    made = context(key_file="/k/flag", endpoint_url="http://flag")
    made.use_repository_of(RUN)
    assert opens(made.config) == ("s3://theirs/x", "http://flag", "/k/flag")
    made = context(repo="s3://theirs/x")
    made.use_repository_of(RUN)
    assert opens(made.config) == ("s3://theirs/x", "http://theirs", "/k/theirs"), "it is the same one"
    made = context(repo="s3://other/z")
    made.use_repository_of(RUN)
    assert opens(made.config) == ("s3://other/z", "", ""), "another repository has other keys"


def test_a_key_that_the_environment_names_is_of_the_repository_there(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRIU_AGENT_REPOSITORY", "s3://theirs/x")
    monkeypatch.setenv("CRIU_AGENT_KEY_FILE", "/k/env")
    monkeypatch.setenv("CRIU_AGENT_PASSPHRASE_FILE", "/p/env")
    bare = replace(RUN, key_file="", endpoint_url="")
    config = runs.with_repository_of(configuration.load(), bare)
    assert (config.key_file, config.passphrase_file) == (Path("/k/env"), Path("/p/env"))
    config = runs.with_repository_of(configuration.load(), replace(bare, repository="s3://elsewhere/x"))
    assert (config.key_file, config.passphrase_file) == (None, None)


def test_a_supervisor_sees_the_same_whatever_the_configuration_file_says(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration.CONFIG_FILE.write_text('key_file = "/k/file"\npassphrase_file = "/p/file"\n')
    before = configuration.load()
    assert (before.key_file, before.passphrase_file) == (Path("/k/file"), Path("/p/file"))
    for wanted in (before, runs.with_repository_of(before, replace(RUN, key_file=""))):
        for name, value in configuration.child_environment(wanted).items():
            monkeypatch.setenv(name, value)
        assert configuration.load() == wanted


def test_a_run_of_before_uses_what_the_environment_says(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRIU_AGENT_REPOSITORY", "s3://theirs/x")
    monkeypatch.setenv("CRIU_AGENT_KEY_FILE", "/k/env")
    config = configuration.load()
    path = runs.create(config, RUN)
    saved = json.loads((path / "run.json").read_bytes())
    for name in ("key_file", "endpoint_url", "passphrase_file"):
        del saved[name]
    (path / "run.json").write_text(json.dumps(saved))
    made = context()
    made.use_repository_of(runs.find(config, "one").spec)
    assert opens(made.config) == ("s3://theirs/x", "", "/k/env")


def test_runs_in_several_repositories_are_not_looked_for_in_one(environment: Path) -> None:
    config = configuration.load()
    for number in range(2):
        name = f"run-{number}"
        spec = replace(RUN, id=f"aa1{number}", name=name, repository=str(environment / name), key_file="")
        runs.create(config, spec)
    with pytest.raises(Usage, match="run-0 and run-1 have their snapshots in several repositories"):
        context().repository("run-0~1", "latest", "run-1:tag")
    assert Path(context().repository("run-1").store.root).name == "run-1"  # type: ignore[attr-defined]
    assert Path(context().repository("unknown").store.root) == environment / "state/repository"  # type: ignore[attr-defined]


# --- passphrases


def test_a_passphrase_that_is_held_is_read_as_one_of_a_file_any_number_of_times(environment: Path) -> None:
    config = passphrase.hold(configuration.load(), "päss phrase".encode())
    assert config.passphrase_file is not None
    for _ in range(2):
        assert keyfile.read_passphrase(config.passphrase_file) == "päss phrase".encode()
    (fd,) = config.descriptors
    assert not os.get_inheritable(fd)
    assert runs.repository_of(config)["passphrase_file"] == "", "another process has no such descriptor"
    os.close(fd)


@pytest.mark.parametrize("path", [None, "/etc/passphrase", "/proc/1/fd/3", "/proc/self/fd/3/x", "/proc/self/fd/"])
def test_other_passphrase_files_are_no_descriptors(environment: Path, path: str | None) -> None:
    config = replace(configuration.load(), passphrase_file=Path(path) if path else None)
    assert config.descriptors == ()
    assert runs.repository_of(config)["passphrase_file"] == (path or "").rstrip("/")


def test_a_passphrase_is_needed_only_where_nothing_else_opens_the_repository(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configuration.load()
    assert not passphrase.is_needed(config), "there is no repository yet"
    vault.init(config, passphrase=b"secret", label="test")
    assert passphrase.is_needed(config)
    assert not passphrase.is_needed(replace(config, passphrase_file=Path("/p")))
    assert not passphrase.is_needed(replace(config, key_file=Path("/k")))
    asked: list[str] = []

    def ask(repository: str) -> bytes:
        asked.append(repository)
        return b"secret"

    repository = vault.open_repository(config, ask=ask)
    assert asked == [config.repository]
    config.key_of(repository.id).write_text("a key\n")
    assert not passphrase.is_needed(config)
    config.key_of(repository.id).unlink()
    (environment / "state/repository/config").write_bytes(b"damaged")
    assert not passphrase.is_needed(config), "what it needs is not known"


def test_a_repository_for_others_only_needs_no_passphrase(environment: Path) -> None:
    config = configuration.load()
    recipient = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
    vault.init(config, recipients=(recipient,), label="test")
    assert not passphrase.is_needed(config)
    with pytest.raises(WrongKey, match="this host has no key"):
        vault.open_repository(config)
