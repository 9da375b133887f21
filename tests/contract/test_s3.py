"""What S3 promises beside the contract: settings, errors, and nothing but whole objects."""

import os
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from criu_agent.errors import Failure, NoConditionalPut, NotFound, Usage
from criu_agent.store import s3_client
from criu_agent.store.base import Store
from criu_agent.store.s3 import S3Store
from criu_agent.store.s3_retry import Patience
from criu_agent.store.url import open_store
from tests.faults.proxy import Exchange, FaultProxy, Reply
from tests.servers.base import BUCKET, Server
from tests.servers.certificates import Authority

MIB = 1 << 20
QUICK = Patience(total=0.3, request=2, silence=2, pause=0.01)
SMALL_AND_BIG: list[Callable[[Store], object]] = [
    lambda store: store.put("a", b"x"),
    lambda store: store.put("a", bytes(MIB)),
    lambda store: store.get("a", 1),
    lambda store: store.get("a", MIB),
    lambda store: store.list(""),
    lambda store: store.swap("a", b"x", b"y"),
    lambda store: store.delete("a"),
]


@pytest.fixture(params=["moto", "ceph"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Server:
    return in_environment(request.getfixturevalue(f"{request.param}_server"), monkeypatch)


@pytest.fixture
def real(ceph_server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    return in_environment(ceph_server, monkeypatch)


def in_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server


def failures(store: Store, kind: type[Failure] = Failure) -> Iterator[Failure]:
    """The error of each call."""
    for call in SMALL_AND_BIG:
        with pytest.raises(kind) as caught:
            call(store)
        yield caught.value


def test_a_url_opens_the_prefix_of_a_bucket(server: Server) -> None:
    prefix = secrets.token_hex(8)
    store = open_store(f"s3://{BUCKET}/{prefix}/x/")
    store.put("config", b"1")
    keys = [entry["Key"] for entry in server.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]]
    assert keys == [f"{prefix}/x/config"]


def test_a_whole_bucket_is_a_store_too(server: Server) -> None:
    bucket = f"own-{secrets.token_hex(8)}"
    server.client().create_bucket(Bucket=bucket)
    store = open_store(f"s3://{bucket}")
    assert store.put("config", b"1")
    assert store.list("") == {"config": 1}


def test_the_endpoint_of_the_flag_wins(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    store = open_store(f"s3://{BUCKET}/{secrets.token_hex(8)}", endpoint_url=server.endpoint)
    assert store.put("a", bytes(MIB))


def test_ceph_lists_more_than_a_page_and_no_foreign_keys(real: Server) -> None:
    prefix, client = secrets.token_hex(8), real.client()
    with ThreadPoolExecutor(8) as pool:
        keys = [f"{prefix}/n/{number:04d}" for number in range(1010)]
        list(pool.map(lambda key: client.put_object(Bucket=BUCKET, Key=key, Body=b"12"), keys))
    for foreign in ("n/", "a b", ".hidden/x", "n//x"):
        client.put_object(Bucket=BUCKET, Key=f"{prefix}/{foreign}", Body=b"")
    assert S3Store(BUCKET, prefix).list("") == {f"n/{number:04d}": 2 for number in range(1010)}


def test_no_multipart_upload_is_left_behind_or_even_begun(server: Server) -> None:
    store = S3Store(BUCKET, secrets.token_hex(8))
    store.put("pack", bytes(17 * MIB))
    client = server.client()
    assert client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []) == []
    tag = client.head_object(Bucket=BUCKET, Key=f"{store.place.prefix}pack")["ETag"]
    assert "-" not in tag  # the tag of a multipart object ends with the number of its parts


def test_a_bucket_that_is_not_there_is_named_with_a_hint(server: Server) -> None:
    for error in failures(S3Store("no-such-bucket", patience=QUICK), NotFound):
        assert f"there is no bucket no-such-bucket at {server.endpoint}" in error.message
        assert "make it" in error.hint


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_a_wrong_key_of_ceph_is_a_denied_access(real: Server, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "wrong-and-secret")
    for error in failures(S3Store(BUCKET, patience=QUICK)):
        assert "denies access (403" in error.message
        assert "AWS_ACCESS_KEY_ID" in error.hint
        assert "wrong-and-secret" not in f"{error.message}{error.hint}{error.__cause__}"


@pytest.mark.parametrize("missing", [["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"], ["AWS_SECRET_ACCESS_KEY"]])
def test_no_credentials_say_what_to_set(server: Server, monkeypatch: pytest.MonkeyPatch, missing: list[str]) -> None:
    for name in missing:
        monkeypatch.delenv(name)
    for call in SMALL_AND_BIG[:2]:
        with pytest.raises(Failure, match="no usable credentials") as caught:
            call(S3Store(BUCKET, patience=QUICK))
        assert "AWS_PROFILE" in caught.value.hint


def test_nobody_at_the_endpoint_is_told_with_the_reason(server: Server) -> None:
    for error in failures(S3Store(BUCKET, endpoint_url="http://127.0.0.1:1", patience=QUICK)):
        assert error.message.startswith(f"cannot reach s3://{BUCKET} at http://127.0.0.1:1")
        assert error.message.endswith("connection refused")
        assert "AWS_ENDPOINT_URL" in error.hint


def test_swift_has_no_conditional_put_and_the_error_says_what_to_do(
    swift_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_environment(swift_server, monkeypatch)
    store = S3Store(BUCKET, secrets.token_hex(8))
    for size in (1, MIB):
        with pytest.raises(NoConditionalPut, match="has no conditional put") as caught:
            store.put("a", bytes(size))
        assert "one host only" in caught.value.hint
    assert store.list("") == {}


def test_tls_needs_the_authority_of_the_environment(
    moto_server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    in_environment(moto_server, monkeypatch)
    authority = Authority(tmp_path)
    with FaultProxy(moto_server.endpoint, authority.server_context("127.0.0.1")) as proxy:
        for error in failures(S3Store(BUCKET, endpoint_url=proxy.endpoint, patience=QUICK)):
            assert "certificate" in error.message
            assert "AWS_CA_BUNDLE" in error.hint
        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.file))
        store = S3Store(BUCKET, secrets.token_hex(8), endpoint_url=proxy.endpoint)
        data = secrets.token_bytes(2 * MIB)
        assert store.put("big", data)
        assert store.put("small", b"1")
        assert store.get("big", 4 * MIB) == data
        assert store.list("") == {"big": 2 * MIB, "small": 1}


def test_a_bundle_of_authorities_that_is_not_there_is_a_usage_error(
    moto_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_environment(moto_server, monkeypatch)
    monkeypatch.setenv("AWS_CA_BUNDLE", "/no/such/file")
    with pytest.raises(Usage, match="/no/such/file"):
        S3Store(BUCKET)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # since Python 3.12, of the fork: it is what is tested
def test_a_forked_child_is_told_instead_of_hanging(moto_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    in_environment(moto_server, monkeypatch)
    store = S3Store(BUCKET, secrets.token_hex(8))
    store.put("a", bytes(MIB))
    child = os.fork()
    if not child:
        try:
            store.get("a", MIB)
        except RuntimeError:
            os._exit(42)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42


def test_both_clients_sign_with_credentials_that_were_refreshed(
    moto_server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A program gives keys that are about to end, so that boto3 asks for others each time."""
    in_environment(moto_server, monkeypatch)
    program = tmp_path / "keys"
    program.write_text(
        '#!/bin/sh\necho x >>"$0.count"\nn=$(wc -l <"$0.count")\nend=$(date -u -d "+1 minute" +%Y-%m-%dT%H:%M:%SZ)\n'
        'echo "{\\"Version\\": 1, \\"AccessKeyId\\": \\"KEY$n\\", \\"SecretAccessKey\\": \\"s\\",'
        ' \\"SessionToken\\": \\"t\\", \\"Expiration\\": \\"$end\\"}"\n'
    )
    program.chmod(0o755)
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {program}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setattr(s3_client, "CREDENTIALS_LIVE", s3_client.CREDENTIALS_LIVE * 0)  # obstore asks each time
    with FaultProxy(moto_server.endpoint) as proxy:
        store = S3Store(BUCKET, secrets.token_hex(8), endpoint_url=proxy.endpoint)
        for number in range(3):
            assert store.put(f"small/{number}", b"x")
            assert store.put(f"big/{number}", bytes(MIB))
        keys: dict[str, list[str]] = {"small": [], "big": []}
        for seen in proxy.seen:
            kind = "small" if "/small/" in seen.path else "big"
            keys[kind].append(seen.headers["authorization"].split("Credential=")[1].split("/")[0])
            assert seen.headers["x-amz-security-token"] == "t"
    assert all(len(set(found)) == 3 for found in keys.values()), keys


def test_a_bucket_elsewhere_names_its_region(moto_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    in_environment(moto_server, monkeypatch)

    def elsewhere(it: Exchange) -> None:
        headers = {"x-amz-bucket-region": "eu-west-1", "Content-Length": "0", "Content-Type": "application/xml"}
        it.send(Reply(301, headers, b"").head())

    with FaultProxy(moto_server.endpoint) as proxy:
        proxy.always[""] = elsewhere
        with pytest.raises(Failure, match="is in the region eu-west-1") as caught:
            S3Store(BUCKET, endpoint_url=proxy.endpoint).list("")
    assert caught.value.hint == "set AWS_REGION=eu-west-1"
