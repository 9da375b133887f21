"""The direction of imports, and who may do what: read from the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import criu_agent

ROOT = Path(criu_agent.__file__).parent
LEVELS = [
    {"cli"},
    {"supervisor"},
    {"ops"},
    {"criu", "box", "net", "term", "fs", "repo", "hooks", "plugins"},
    {"store", "control", "runs"},
    {"linux"},
    {"config", "log"},
    {"model", "durations"},
    {"errors"},
]
LEVEL = {name: number for number, names in enumerate(LEVELS) for name in names}
HEAVY = {"boto3", "pyroute2", "docker"}
SOURCES = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text())
    for path in sorted(ROOT.rglob("*.py"))
    if path.name not in ("messages_pb2.py", "__init__.py") and (path.parent != ROOT or path.stem in LEVEL)
}


def package(source: str) -> str:
    return Path(source).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    """The modules that are imported anywhere in it, with their whole names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_import_time(tree: ast.Module) -> Iterator[str]:
    """The modules that are imported when the module is."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imports(node)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            pending.extend(ast.iter_child_nodes(node))


def users_of(module: str) -> set[str]:
    return {source for source, tree in SOURCES.items() for name in imports(tree) if name.split(".")[0] == module}


def calls_of(*names: str) -> set[str]:
    """The sources that mention `name` or `module.attribute`."""
    nodes = ((source, node) for source, tree in SOURCES.items() for node in ast.walk(tree))
    return {
        source for source, node in nodes if isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node) in names
    }


def test_every_module_has_a_level() -> None:
    assert {package(source) for source in SOURCES} <= LEVEL.keys()
    assert len(SOURCES) > 50


@pytest.mark.parametrize("source", SOURCES)
def test_a_module_imports_only_what_is_to_its_right(source: str) -> None:
    own = package(source)
    for name in imports(SOURCES[source]):
        parts = name.split(".")
        if parts[0] == "criu_agent" and len(parts) > 1 and parts[1] in LEVEL:
            assert parts[1] == own or LEVEL[parts[1]] > LEVEL[own], f"{source} imports {name}"


def test_only_linux_process_starts_processes() -> None:
    assert users_of("subprocess") | calls_of("os.system", "os.popen", "os.posix_spawn") == {"linux/process.py"}


def test_only_linux_syscalls_calls_libc() -> None:
    assert users_of("ctypes") == {"linux/syscalls.py"}


def test_only_config_reads_the_environment() -> None:
    assert calls_of("os.environ", "os.getenv", "os.environb") == {"config.py"}


def test_only_the_command_line_prints() -> None:
    speakers = calls_of("print", "sys.stdout", "click.echo")
    assert speakers
    assert {package(source) for source in speakers} == {"cli"}


def test_heavy_libraries_are_imported_only_when_they_are_needed() -> None:
    eager = {(s, name) for s, tree in SOURCES.items() for name in at_import_time(tree) if name.split(".")[0] in HEAVY}
    assert eager == set()
    assert users_of("pyroute2") == {"linux/nft.py"}
    assert users_of("docker") == {"ops/engine.py"}
    assert users_of("boto3") == {"store/s3_client.py"}
    assert users_of("botocore") | users_of("obstore") == {
        "store/s3_client.py",
        "store/s3_errors.py",
        "store/s3_requests.py",
    }


def test_the_package_has_no_assert() -> None:
    found = {source for source, tree in SOURCES.items() if any(isinstance(n, ast.Assert) for n in ast.walk(tree))}
    assert found == set()
