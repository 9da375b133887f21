"""A signature says who wrote a manifest, not that it is harmless: hostile ones are refused before CRIU is started.

And of what a stranger wrote nothing is decrypted, decompressed, parsed or unwrapped at all.
"""

import contextlib
import io
import json
import multiprocessing
import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from blake3 import blake3

from criu_agent import runs
from criu_agent.cli.main import run_cli
from criu_agent.config import Config
from criu_agent.errors import Corrupt, Failure, HostCannot, Usage
from criu_agent.ops import admission, live, restore, vault
from criu_agent.repo import catalogue, envelope, keyobject, opening, secret, wrap
from criu_agent.repo.heads import Head
from criu_agent.repo.secret import Secret
from criu_agent.store import document
from criu_agent.store.file import FileStore
from tests.conftest import Agent, await_true
from tests.counting import assert_counts_on, numbers
from tests.fakes import hostile
from tests.fakes.hostile import ESCAPES, Honest, Hostile
from tests.fakes.hostile_cases import CASES, DEEP
from tests.fakes.vaults import Objects, grown, store_of, stored_in
from tests.inside import config_of

WORKERS = 1  # they restore the same run into the same work directory: one after the other, as on a host
MOST_MEMORY = 1 << 30  # as much as the largest manifest that may be needs
LONGEST = 30.0  # seconds
_FAKE_CRIU = """#!/bin/sh
case $1 in
--version) echo "Version: 99.0" ;;
*) echo "$@" >>"$0.started" ;;
esac
"""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A host with a suspended run, and what its repository holds."""

    config: Config
    key_file: Path
    run_id: str
    objects: Objects
    honest: Honest


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of one case: what was not as it should be, the slowest use and the peak of all."""

    case: str
    said: str
    unexpected: str
    seconds: float
    peak: int


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    made = Agent(tmp_path_factory.mktemp("host"))
    yield made
    made.clean_up()


@pytest.fixture(scope="module")
def scene(host: Agent) -> Scene:
    script = "echo kept >/root/kept; n=0; while :; do n=$((n + 1)); echo $n; sleep 0.05; done"
    host("run", "-d", "--name", "counter", "--", "sh", "-c", script)
    await_true(lambda: len(numbers(host)) > 3, "it counts")
    host("suspend", "counter")
    config = config_of(host)
    repository = vault.open_repository(config)
    snapshot = repository.find("counter")
    name = catalogue.name_of(snapshot)
    store = FileStore(Path(config.repository))
    objects = {one: store.get(one, 1 << 30) for one in store.list("")}
    plain = envelope.open_manifest(repository.secret, name.run, name.snapshot, objects[name.object])
    honest = Honest(secret=repository.secret, run_id=name.run, sequence=name.sequence, plain=plain)
    return Scene(
        config=config,
        key_file=config.key_of(repository.id),
        run_id=name.run,
        objects=objects,
        honest=honest,
    )


def test_no_hostile_manifest_is_restored_or_ends_with_a_traceback(scene: Scene, tmp_path: Path) -> None:
    assert len(CASES) >= 60
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        shares = [pool.submit(judge, scene, tmp_path / str(share), share) for share in range(WORKERS)]
        verdicts = [verdict for share in shares for verdict in share.result()]
    assert len(verdicts) == len(CASES)
    assert not [one for one in verdicts if one.unexpected]
    slowest, largest = max(verdicts, key=lambda one: one.seconds), max(verdicts, key=lambda one: one.peak)
    print(f"slowest {slowest.case} {slowest.seconds:.1f} s, largest {largest.case} {largest.peak >> 20} MiB")
    assert slowest.seconds < LONGEST
    assert largest.peak < MOST_MEMORY


def judge(scene: Scene, directory: Path, share: int) -> list[Verdict]:
    live.enter_private_mounts()  # of this process, as a supervisor does
    return [
        verdict_on(case, scene, directory / str(number))
        for number, case in enumerate(CASES)
        if number % WORKERS == share
    ]


def verdict_on(case: hostile.Case, scene: Scene, directory: Path) -> Verdict:
    made = case.make(scene.honest)
    config = another_host(scene, directory)
    Path("/proc/self/clear_refs").write_text("5")  # the peak of this process begins anew (man 5 proc)
    times: dict[str, float] = {}
    said, unexpected = "", ""
    try:
        error = met(scene, config, made, times)
        said = f"{type(error).__name__}: {error}"
        if not case.true and (not isinstance(error, (Corrupt, HostCannot, Usage)) or started(config)):
            unexpected = said
    except Exception:  # noqa: BLE001 - a traceback is what must not be
        unexpected = traceback.format_exc()
    most = peak()
    shutil.rmtree(directory)
    return Verdict(case=case.name, said=said, unexpected=unexpected, seconds=max(times.values()), peak=most)


def peak() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


def another_host(scene: Scene, directory: Path) -> Config:
    """One that has nothing but the key, and a CRIU that says whether it was started."""
    directory.mkdir(parents=True)
    criu = directory / "criu"
    criu.write_text(_FAKE_CRIU)
    criu.chmod(0o755)
    return replace(
        scene.config,
        state_dir=directory / "state",
        runtime_dir=directory / "run",
        key_file=scene.key_file,
        criu=criu,
    )


def started(config: Config) -> bool:
    return Path(f"{config.criu}.started").exists()


def met(scene: Scene, config: Config, made: Hostile, times: dict[str, float]) -> Failure | None:
    """What a restore of it ends with; how long each use took. The verbs that only look at it end with a code of ours,
    or raise."""
    looks = (["snapshots"], ["ls", made.snapshot, "-R"], ["diff", f"{made.snapshot}~1", made.snapshot])
    store = store_of({**scene.objects, **made.objects})
    with stored_in(store):
        repository = vault.open_repository(config)
        head = repository.heads.read(scene.run_id)
        new = Head(revision=head.revision, sequence=head.sequence + 1, snapshot=made.snapshot)
        repository.heads.renew(scene.run_id, new)
        for verb in (*looks, ["check", "--read-data"]):
            began = time.monotonic()
            code, out, err = look(config, *verb)
            times[verb[0]] = time.monotonic() - began
            assert code in (0, 1, 2, 10, 14, 15), (verb, out, err)
        began = time.monotonic()
        error = restored(config, made.snapshot)
        times["restore"] = time.monotonic() - began
        return error


def look(config: Config, *arguments: str) -> tuple[int, str, str]:
    """A command line in this process: what is no error of ours is raised."""
    settings = {
        "CRIU_AGENT_STATE_DIR": str(config.state_dir),
        "CRIU_AGENT_RUNTIME_DIR": str(config.runtime_dir),
        "CRIU_AGENT_REPOSITORY": config.repository,
        "CRIU_AGENT_KEY_FILE": str(config.key_file),
        "CRIU_AGENT_CRIU": str(config.criu),
    }
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        for key, value in settings.items():
            patch.setenv(key, value)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run_cli(list(arguments))
    return code, out.getvalue(), err.getvalue()


def restored(config: Config, snapshot_id: str) -> Failure | None:
    try:
        repository = vault.open_repository(config)
        run_id, _ = admission.prepare(config, repository.find(snapshot_id))
        run = runs.by_id(config, run_id)
        assert run is not None
        restore.restore(config, run, snapshot_id, here=restore.Here(), commit=not_that_far)
    except Failure as error:
        return error
    return None


def not_that_far(_root_pid: int) -> None:
    raise AssertionError("a hostile snapshot was restored")


def test_the_honest_one_that_they_are_made_of_reaches_criu(scene: Scene, tmp_path: Path) -> None:
    """Else nothing would follow from that the others do not."""
    config = another_host(scene, tmp_path / "there")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        said = pool.submit(meets, scene, config, hostile.harmless(scene.honest)).result()
    assert started(config), said


def meets(scene: Scene, config: Config, made: Hostile) -> str:
    live.enter_private_mounts()
    return str(met(scene, config, made, {}))


def test_what_a_snapshot_says_of_itself_does_not_act_on_the_terminal(scene: Scene, tmp_path: Path) -> None:
    config = another_host(scene, tmp_path / "there")
    made = hostile.escapes(scene.honest)
    store = store_of({**scene.objects, **made.objects})
    with stored_in(store):
        repository = vault.open_repository(config)
        repository.heads.renew(scene.run_id, Head(revision=9, sequence=2, snapshot=made.snapshot))
        snapshot = made.snapshot
        for verb in (
            ["snapshots"],
            ["snapshots", "--json"],
            ["forget", "-n", "--keep-last", "1"],
            ["forget", "-n", "--keep-tag", ESCAPES],
            ["stats"],
            ["check"],
            ["tag", snapshot, "--add", "more"],
            ["diff", f"{snapshot}~1", snapshot],
            ["inspect", snapshot],
        ):
            code, out, err = look(config, *verb)
            assert code in (0, 1, 2, 10), (verb, out, err)
            assert not {"\x1b", "\x07", "\r", "\u202e", "\udcff"} & set(out + err), verb
        assert "owned" in look(config, "snapshots")[1], "it was there to be shown"


def test_the_run_that_they_were_made_of_goes_on(scene: Scene, host: Agent) -> None:
    host("resume", "-d", "counter")
    assert_counts_on(host)
    assert host("exec", "counter", "cat", "/root/kept").out == "kept\n"


@pytest.mark.parametrize(
    "make",
    [
        hostile.changed("head/resources/run", {}),
        hostile.renamed("images", "../evil.img"),
        hostile.with_resources(DEEP),
    ],
    ids=["resources", "name", "depth"],
)
def test_a_command_line_says_what_is_wrong_and_leaves_nothing(
    scene: Scene, tmp_path: Path, agent: Agent, make: Callable[[Honest], Hostile]
) -> None:
    """The real one, with its supervisor, on a host that has only the key."""
    shutil.copytree(scene.config.repository, agent.directory / "repository")
    made = make(scene.honest)
    for name, data in made.objects.items():
        path = agent.directory / "repository" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    config = replace(scene.config, repository=str(agent.directory / "repository"), state_dir=tmp_path / "elsewhere")
    repository = vault.open_repository(replace(config, key_file=scene.key_file))
    head = repository.heads.read(scene.run_id)
    repository.heads.renew(scene.run_id, Head(revision=head.revision, sequence=2, snapshot=made.snapshot))
    outcome = agent("restore", "-d", made.snapshot, "--key-file", str(scene.key_file), check=False)
    assert outcome.code == 14, outcome
    assert "Traceback" not in outcome.err
    assert "hint: " in outcome.err
    assert agent.runs() == []


# --- strangers


@pytest.fixture
def parsers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of everything that has looked at more than a signature."""
    used: list[str] = []

    def spy(owner: object, name: str) -> None:
        real = getattr(owner, name)

        def called(*args: object, **options: object) -> object:
            used.append(name)
            return real(*args, **options)

        monkeypatch.setattr(owner, name, called)

    spy(json, "loads")
    spy(document, "from_json")
    spy(envelope, "AESGCM")
    spy(envelope.zstandard, "ZstdDecompressor")
    spy(envelope.zstandard, "get_frame_parameters")
    spy(wrap.pyrage, "decrypt")
    spy(opening.wrap, "unwrap_passphrase")
    spy(secret, "object_key")
    return used


def test_of_a_strangers_manifests_and_registers_nothing_is_looked_at_but_the_signature(
    tmp_path: Path, parsers: list[str]
) -> None:
    made = grown(tmp_path)
    with stored_in(store_of(made.objects)):
        ours = vault.open_repository(made.config)
    stranger = secret.new(ours.id)
    for kind in ("snapshots/run-a/", "heads/run-a", "tags/run-a/", "locks/run-a"):
        name = next(name for name in made.objects if name.startswith(kind))
        forged = forge(stranger, name, made.objects)
        store = store_of({**{k: v for k, v in made.objects.items() if k != name}, **forged})
        repository = vault.Repository(store, ours.header, ours.secret, ours.heads._floor)
        parsers.clear()
        read = partial(repository.registers.read, name)
        if kind.startswith("snapshots"):
            (forged_name,) = (one for one in catalogue.names(store) if one.object in forged)
            read = partial(repository._read_manifest, forged_name)
        with pytest.raises(Corrupt, match="forged"):
            read()
        assert parsers == [], kind


def forge(stranger: Secret, name: str, objects: Objects) -> dict[str, bytes]:
    """An object of ours in the words of somebody who has no key of ours."""
    if not name.startswith("snapshots/"):
        return {name: envelope.seal_register(stranger, name, {"run": "run-a", "tags": ["x"], "holder": None})}
    _, run_id, last = name.split("/")
    data = envelope.seal_manifest(stranger, run_id, b"{}\n{}\n")
    return {f"snapshots/{run_id}/{last.partition('-')[0]}-{blake3(data).hexdigest()}": data}


def test_of_a_strangers_key_objects_nothing_is_unwrapped_or_parsed(tmp_path: Path, parsers: list[str]) -> None:
    made = grown(tmp_path)
    with stored_in(store_of(made.objects)):
        ours = vault.open_repository(made.config)
    stranger = secret.new(ours.id)
    details = keyobject.Details(created="2026-11-21T03:14:15Z", label="x", recipient="age1x")
    recipient = made.key_file.read_text().split("public key: ")[1].split()[0]
    key_id = "0" * 32
    wrapped = wrap.wrap(secret.encode(stranger), recipient)
    forged = keyobject.encode(stranger, key_id, details, wrapped, by_passphrase=False, siblings=[])
    with stored_in(store_of({"config": made.objects["config"], f"keys/{key_id}": forged})):
        parsers.clear()
        with pytest.raises(Failure, match="no trusted signer stands behind the keys"):
            vault.open_repository(made.config)
    assert parsers == ["loads"], "that of config, which nobody signs"
    with stored_in(store_of({**made.objects, f"keys/{key_id}": forged})):
        parsers.clear()
        repository = vault.open_repository(made.config)
        assert repository.secret == ours.secret
        assert parsers.count("decrypt") <= len([name for name in made.objects if name.startswith("keys/")])
