"""What an S3 server or the network answered: one form for both clients, and the errors that users see.

The texts are ours: of an answer only its status and code are shown, so that nothing that was signed or secret
can be in a message.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from obstore import exceptions as bulk

from criu_agent.errors import Failure, NoConditionalPut, NoSpace, NotFound

NO_CREDENTIALS = "NoCredentials"
CERTIFICATE = "Certificate"
RANGE_IGNORED = "RangeIgnored"
_THROTTLED = {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests"}
_PASSING = _THROTTLED | {"RequestTimeout", "IncompleteBody", "InternalError", "ServiceUnavailable"}
_FULL = {"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage"}
_CREDENTIALS_HINT = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where objects lie: `prefix` is empty or ends with a slash, `endpoint` is a URL."""

    bucket: str
    prefix: str
    endpoint: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/") + f" at {self.endpoint}"


class Answer(Exception):
    """A request that did not succeed. Status None: no answer was understood, nobody knows if it took effect."""

    def __init__(
        self, status: int | None, code: str = "", *, text: str = "", region: str = "", pause: float = 0
    ) -> None:
        super().__init__(f"{status or 'no answer'} {code} {text}".strip())
        self.status = status
        self.code = code
        self.text = text
        self.region = region  # where the bucket is, if the server says so
        self.pause = pause  # seconds, if the server asks for that much

    @property
    def transient(self) -> bool:
        """Whether the same request may succeed later."""
        if self.status is None:
            return self.code not in (NO_CREDENTIALS, CERTIFICATE)
        conflict_or_throttled = self.status in (408, 409, 429)
        broken = self.status >= 500 and self.status not in (501, 507)
        return conflict_or_throttled or broken or self.code in _PASSING

    @property
    def throttled(self) -> bool:
        return self.status in (429, 503) or self.code in _THROTTLED

    @property
    def missing(self) -> bool:
        """The object is not there; without its bucket there is none either, and that is told apart."""
        return self.status == 404 and self.code != "NoSuchBucket"

    @property
    def refused(self) -> bool:
        """The condition of a conditional put did not hold (R2 says 304 for it)."""
        return self.status in (304, 412)


def cut(what: str) -> Answer:
    """An answer that came, but not whole."""
    return Answer(None, text=f"{what} was cut short")


@contextmanager
def translated() -> Iterator[None]:
    """Whatever the two clients raise, as an Answer."""
    try:
        yield
    except (boto.ClientError, boto.BotoCoreError, ResponseParserError) as error:
        raise _of_boto(error) from error
    except (bulk.BaseError, FileNotFoundError) as error:
        raise _of_bulk(error) from error


def failure(answer: Answer, place: Place, *, seconds: float = 0) -> Failure:
    """The error for the user; `seconds` is how long it was tried again in vain."""
    said = f"{answer.status} {answer.code}".rstrip()
    still = f", still after {seconds:.0f} s" if seconds else ""
    if answer.region:
        return Failure(
            f"the bucket {place.bucket} is in the region {answer.region} ({said})",
            hint=f"set AWS_REGION={answer.region}",
        )
    if answer.code == "NoSuchBucket":
        return NotFound(
            f"there is no bucket {place.bucket} at {place.endpoint}",
            hint="make it, or name another one with -r s3://BUCKET/PREFIX",
        )
    if answer.code == NO_CREDENTIALS:
        return Failure(f"there are no usable credentials for {place}: {answer.text}", hint=_CREDENTIALS_HINT)
    if answer.code == "RequestTimeTooSkewed":
        return Failure(f"{place} refuses the clock of this host", hint="set the clock: timedatectl set-ntp true")
    if answer.code in _FULL or answer.status == 507:
        return NoSpace(f"no space left in {place} ({said})", hint="free some space, or name another one with -r")
    if answer.status in (401, 403):
        return Failure(
            f"{place} denies access ({said})", hint=_CREDENTIALS_HINT + ", of a user who may use the bucket"
        )
    if answer.status == 501:
        return NoConditionalPut(
            f"{place} has no conditional put ({said})", hint="use it from one host only, or another store"
        )
    if answer.throttled:
        return Failure(f"{place} asks to slow down{still} ({said})", hint="try again later, or with fewer at once")
    return _other(answer, place, said, still)


def _other(answer: Answer, place: Place, said: str, still: str) -> Failure:
    if answer.code == CERTIFICATE:
        return Failure(
            f"the certificate of {place} is not trusted", hint="name the file of its authority in AWS_CA_BUNDLE"
        )
    if answer.status is None:
        return Failure(f"cannot reach {place}{still}: {answer.text}", hint="check the network, and AWS_ENDPOINT_URL")
    if answer.code == RANGE_IGNORED:
        return Failure(f"{place} does not answer with ranges of objects", hint="use another store")
    if 300 <= answer.status < 400:
        return Failure(
            f"{place} sends us elsewhere ({said})", hint="set AWS_REGION and AWS_ENDPOINT_URL to the right ones"
        )
    return Failure(f"{place} failed{still} ({said})", hint="try again; if it stays, see what the server logs")


def _of_boto(error: Exception) -> Answer:
    if isinstance(error, boto.ClientError):
        return _of_client_error(error)
    if isinstance(error, boto.SSLError):
        return Answer(None, CERTIFICATE if "CERTIFICATE" in str(error).upper() else "", text="TLS failed")
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError):
        return Answer(None, NO_CREDENTIALS, text="none were found, or only half of them")
    credentials = boto.CredentialRetrievalError | boto.SSOError | boto.TokenRetrievalError | boto.InvalidConfigError
    if isinstance(error, credentials | boto.ProfileNotFound):
        return Answer(None, NO_CREDENTIALS, text=type(error).__name__)
    return Answer(None, text=_reason(error))


def _of_client_error(error: boto.ClientError) -> Answer:
    meta = error.response.get("ResponseMetadata", {})
    headers = meta.get("HTTPHeaders", {})
    told = error.response.get("Error", {})
    status = meta.get("HTTPStatusCode")
    code = str(told.get("Code", ""))
    wait = str(headers.get("retry-after", ""))
    region = headers.get("x-amz-bucket-region", "") or str(told.get("Region", ""))
    elsewhere = status in (301, 307) or code in ("AuthorizationHeaderMalformed", "IllegalLocationConstraintException")
    return Answer(
        status,
        code if re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]{0,60}", code) else "",
        region=region if elsewhere and re.fullmatch(r"[a-z0-9-]{1,40}", region) else "",
        pause=float(wait) if re.fullmatch(r"[0-9]{1,4}", wait) else 0,
    )


def _of_bulk(error: Exception) -> Answer:
    """obstore has its answers in its texts only (seen with obstore 0.12)."""
    text = str(error)
    status = re.search(r"status code: ([0-9]{3})", text)
    code = re.search(r"<Code>([A-Za-z][A-Za-z0-9._-]{0,60})</Code>", text)
    if status:
        return Answer(int(status[1]), code[1] if code else "")
    if isinstance(error, bulk.UnauthenticatedError) or "credential" in text:
        return Answer(None, NO_CREDENTIALS, text="they could not be read")
    if "InvalidCertificate" in text or "certificate" in text:
        return Answer(None, CERTIFICATE)
    known = re.search(r'message: "([A-Za-z0-9 ]{1,80})"', text)
    late = "TimedOut" in text or "Timeout" in text
    return Answer(None, text=known[1].lower() if known else "no answer in time" if late else "the connection broke")


def _reason(error: BaseException) -> str:
    """Why there was no answer, in the words of the operating system where it has some."""
    if isinstance(error, boto.ReadTimeoutError | boto.ConnectTimeoutError):
        return "no answer in time"
    cause: BaseException | None = error
    while cause:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
        cause = cause.__cause__ or cause.__context__
    return "the connection broke, or what came was no answer of S3"
