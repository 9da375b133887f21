"""Again, later, not for ever; and what an answer of a server means."""

import pytest
from botocore.exceptions import ClientError

from criu_agent.errors import Failure, NoConditionalPut, NoSpace, NotFound
from criu_agent.store.s3_errors import Answer, Place, failure, translated
from criu_agent.store.s3_retry import Patience, persist

PLACE = Place(bucket="b", prefix="p/", endpoint="https://s3.example")


class Time:
    """A clock that only sleeping moves; jitter as long as it may be."""

    def __init__(self, patience: Patience) -> None:
        self.now = 100.0
        self.slept: list[float] = []
        self.patience = patience

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def run(self, *answers: Answer | str) -> str:
        left = list(answers)
        self.again: list[bool] = []

        def attempt(again: bool) -> str:
            self.again.append(again)
            answer = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(answer, Answer):
                raise answer
            return answer

        return persist(
            attempt, self.patience, PLACE, clock=lambda: self.now, sleep=self.sleep, jitter=lambda low, high: high
        )


def test_pauses_double_up_to_a_limit() -> None:
    time = Time(Patience(total=100, pause=1, pause_limit=5))
    assert time.run(*[Answer(500)] * 5, "done") == "done"
    assert time.slept == [1, 2, 4, 5, 5]
    assert time.again == [False, True, True, True, True, True]


def test_a_throttled_request_waits_longer_and_at_least_what_the_server_says() -> None:
    time = Time(Patience(total=100, pause=0.1, pause_throttled=2))
    assert time.run(Answer(503, "SlowDown"), Answer(503, "SlowDown", pause=7), Answer(500), "done") == "done"
    assert time.slept == [2, 7, 0.4]


def test_no_request_is_begun_after_the_total() -> None:
    time = Time(Patience(total=10, pause=1))
    with pytest.raises(Failure, match="still after 7 s"):
        time.run(Answer(None, text="connection refused"))
    assert time.slept == [1, 2, 4]


def test_a_server_cannot_have_us_wait_longer_than_the_total() -> None:
    time = Time(Patience(total=10))
    with pytest.raises(Failure, match="asks to slow down"):
        time.run(Answer(503, "SlowDown", pause=3600))
    assert time.slept == []


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (Answer(404, "NoSuchBucket"), NotFound, "there is no bucket b at https://s3.example"),
        (Answer(403, "AccessDenied"), Failure, "s3://b/p at https://s3.example denies access"),
        (Answer(403, "RequestTimeTooSkewed"), Failure, "clock"),
        (Answer(501, "NotImplemented"), NoConditionalPut, "has no conditional put"),
        (Answer(507), NoSpace, "no space left"),
        (Answer(403, "QuotaExceeded"), NoSpace, "no space left"),
        (Answer(400, "InvalidRequest"), Failure, "failed"),
        (Answer(301, "PermanentRedirect", region="eu-west-1"), Failure, "is in the region eu-west-1"),
        (Answer(307, "TemporaryRedirect"), Failure, "sends us elsewhere"),
        (Answer(None, "NoCredentials", text="none"), Failure, "no usable credentials"),
        (Answer(None, "Certificate"), Failure, "is not trusted"),
    ],
)
def test_what_will_not_change_is_told_at_once(answer: Answer, kind: type[Failure], text: str) -> None:
    time = Time(Patience())
    with pytest.raises(kind, match=text) as caught:
        time.run(answer)
    assert caught.value.hint
    assert time.slept == []


@pytest.mark.parametrize("status", [None, 408, 409, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(status: int | None) -> None:
    assert Time(Patience()).run(Answer(status), "done") == "done"


def test_what_a_server_writes_into_its_answer_is_not_shown() -> None:
    with pytest.raises(Answer) as caught, translated():
        raise ClientError(
            {
                "Error": {"Code": "Evil\x1b[2J", "Message": "secret"},
                "ResponseMetadata": {"HTTPStatusCode": 400, "HTTPHeaders": {"x-amz-bucket-region": "\x1b[2J"}},
            },
            "PutObject",
        )
    assert caught.value.code == caught.value.region == ""
    assert failure(caught.value, PLACE).message == "s3://b/p at https://s3.example failed (400)"
