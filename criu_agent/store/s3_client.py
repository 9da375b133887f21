"""The two clients of a bucket: boto3 for control, obstore for bulk bytes, with the same credentials.

obstore puts 7 times as fast as boto3's managed transfer at a seventh of its CPU, because it does not sign the payload
(lab/performance.md; `python -m bench.s3`): TLS carries it, and whatever we store is authenticated when it is read.
boto3 signs small payloads also without TLS.

Neither client tries again by itself: store.s3_retry does.

obstore has threads from its first request on, which do not end. So the process cannot setns(2) into a mount or user
namespace any more (EINVAL), and a child that it forks hangs in its first bulk request. Such a child may do all else,
and exec [tried with obstore 0.12].
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from criu_agent import log
from criu_agent.errors import Usage
from criu_agent.store.s3_errors import NO_CREDENTIALS, Answer, Place, failure, translated
from criu_agent.store.s3_retry import Patience

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from obstore.store import S3Credential, S3Store

_DEFAULT_REGION = "us-east-1"  # what servers that have no regions expect
CREDENTIALS_LIVE = timedelta(minutes=10)  # boto3 gives none out that end sooner
_CONNECTIONS = 32


class Clients:
    """Both clients of one bucket. They may be used by several threads."""

    def __init__(self, bucket: str, prefix: str, endpoint_url: str, patience: Patience) -> None:
        """No request is made to the bucket. An empty `endpoint_url`: AWS_ENDPOINT_URL, the profile's, or AWS.

        Usage for settings that cannot be used, Failure for credentials that cannot be read.
        """
        import boto3
        from botocore.session import get_session

        core = get_session()
        self._patience = patience
        with _settings():
            self._session = boto3.Session(botocore_session=core)
            self._ca_bundle = _checked_bundle(str(core.get_config_variable("ca_bundle") or ""))
            self._region = self._session.region_name or _DEFAULT_REGION
            endpoint, self._path_style = self._resolve(bucket, endpoint_url)
        self.place = Place(bucket=bucket, prefix=prefix, endpoint=_checked(endpoint))
        try:
            with translated():
                self.control = self._make_control(endpoint, {"addressing_style": "path"} if self._path_style else {})
        except Answer as answer:
            raise failure(answer, self.place) from answer
        self._process = os.getpid()
        self._bulk: S3Store | None = None
        self._lock = threading.Lock()

    @property
    def bulk(self) -> "S3Store":
        """Made when it is first needed. Answer if the credentials cannot be had."""
        if self._process != os.getpid():
            raise RuntimeError("a store in S3 was opened before a fork; its bulk requests would hang")
        with self._lock:
            if self._bulk is None:
                self._bulk = self._make_bulk()
            return self._bulk

    def _resolve(self, bucket: str, endpoint_url: str) -> tuple[str, bool]:
        """The URL of the endpoint, and whether the bucket goes into the path instead of the host's name.

        It does for any endpoint but AWS's, unless the profile says something else: only a server with a wildcard in
        its DNS and its certificate can do otherwise. A name with a dot fits no wildcard.
        """
        client = self._make_control(endpoint_url, {}, key="none")  # with one it looks for no credentials
        endpoint = str(client.meta.endpoint_url)
        style = (getattr(client.meta.config, "s3", None) or {}).get("addressing_style", "auto")
        host = urlsplit(endpoint).hostname or ""
        aws = host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
        return endpoint, style == "path" or "." in bucket or (style == "auto" and not aws)

    def _make_control(self, endpoint_url: str, s3: dict[str, Any], *, key: str | None = None) -> "S3Client":
        from botocore.config import Config

        config = Config(
            connect_timeout=self._patience.silence,
            read_timeout=self._patience.silence,
            # max_attempts would count the retries, and so make two requests of 1
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=_CONNECTIONS,
            # The new default, a trailing checksum in chunks, is not understood by servers of before 2025.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3=s3 or None,  # type: ignore[arg-type]
        )
        client: S3Client = self._session.client(
            "s3",
            region_name=self._region,
            endpoint_url=endpoint_url or None,
            verify=self._ca_bundle or True,
            config=config,
            aws_access_key_id=key,
            aws_secret_access_key=key,
        )
        client.meta.events.register("before-call.s3", _no_redirect)
        return client

    def _make_bulk(self) -> "S3Store":
        from obstore.store import S3Store

        with translated():
            self._credentials()  # the error of boto3 says more than the one of a callback
        options: dict[str, Any] = {
            "allow_http": self.place.endpoint.startswith("http://"),
            "timeout": timedelta(seconds=self._patience.request),
            "connect_timeout": timedelta(seconds=self._patience.silence),
        }
        if self._ca_bundle:
            options["root_certificate"] = Path(self._ca_bundle).read_bytes()
        endpoint = self.place.endpoint
        if not self._path_style:  # obstore wants the bucket in it then
            scheme, _, rest = endpoint.partition("://")
            endpoint = f"{scheme}://{self.place.bucket}.{rest}"
        with translated():
            return S3Store(
                self.place.bucket,
                config={
                    "endpoint": endpoint,
                    "region": self._region,
                    "virtual_hosted_style_request": not self._path_style,
                    "unsigned_payload": True,
                    "conditional_put": "etag",
                },
                client_options=options,  # type: ignore[arg-type] # built in two steps
                retry_config={"max_retries": 0},
                credential_provider=self._credentials,
            )

    def _credentials(self) -> "S3Credential":
        """What obstore signs with. It asks again before they end, and boto3 refreshes those that can be."""
        found = self._session.get_credentials()
        if found is None:
            raise Answer(None, NO_CREDENTIALS, text="none were found")
        frozen = found.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key or "",
            "secret_access_key": frozen.secret_key or "",
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + CREDENTIALS_LIVE,
        }


def _no_redirect(context: dict[str, Any], **_: object) -> None:
    """botocore asks for the bucket's region at a redirect; if that is redirected too, it asks again, without end."""
    context.setdefault("s3_redirect", {})["redirected"] = True


@contextmanager
def _settings() -> Iterator[None]:
    """What boto3 says about its settings, as the user's mistake."""
    from botocore.exceptions import BotoCoreError

    try:
        yield
    except (BotoCoreError, ValueError) as error:
        # ValueError has the URL in its text, and that may have a password
        text = str(error) if isinstance(error, BotoCoreError) else "the endpoint is no URL"
        raise Usage(f"cannot use S3: {text}", hint="check AWS_PROFILE, AWS_ENDPOINT_URL and ~/.aws/config") from error


def _checked(endpoint: str) -> str:
    """An endpoint that may be shown. Usage for one with a password; a warning for one that can be listened to."""
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
        raise Usage(
            "the S3 endpoint is not of the form https://HOST[:PORT]", hint="set AWS_ENDPOINT_URL to such a URL"
        )
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        log.warning("%s is not encrypted: whoever listens sees the names of objects and when they change", endpoint)
    return endpoint


def _checked_bundle(path: str) -> str:
    if path and not Path(path).is_file():
        raise Usage(f"there is no file of certificates {path}", hint="set AWS_CA_BUNDLE to one")
    return path


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
