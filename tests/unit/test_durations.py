"""Durations as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from criu_agent import durations
from criu_agent.errors import Usage


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1),
        ("90s", 90),
        ("5m", 300),
        ("2h", 7200),
        ("1d", 86400),
        ("2w", 1209600),
        ("1h30m", 5400),
        ("1w1d1h1m1s", 694861),
        ("0h5m", 300),
        ("520w", 314496000),
    ],
)
def test_a_duration_is_read_as_its_seconds(text: str, seconds: float) -> None:
    assert durations.parse(text) == seconds


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' is no duration"),
        ("5", "'5' is no duration"),
        ("m", "'m' is no duration"),
        ("5 m", "'5 m' is no duration"),
        ("5M", "'5M' is no duration"),
        ("1.5h", "'1.5h' is no duration"),
        ("-5m", "'-5m' is no duration"),
        ("30m1h", "'30m1h' is no duration"),
        ("5m5m", "'5m5m' is no duration"),
        ("5min", "'5min' is no duration"),
        ("1e3s", "'1e3s' is no duration"),
        ("\u0665m", "'\u0665m' is no duration"),
        ("5m\n", "'5m\\n' is no duration"),
        ("0s", "'0s' is nothing"),
        ("0d0s", "'0d0s' is nothing"),
        ("521w4d", "'521w4d' is too long"),
        ("999999999w", "'999999999w' is too long"),
        ("9999999999s", "'9999999999s' is no duration"),
    ],
)
def test_anything_else_is_a_usage_error_that_names_it(text: str, said: str) -> None:
    with pytest.raises(Usage) as refused:
        durations.parse(text)
    assert refused.value.message == said
    assert refused.value.hint


def test_a_bare_number_is_told_what_its_unit_may_be() -> None:
    with pytest.raises(Usage) as refused:
        durations.parse("30")
    assert refused.value.hint == "30s is seconds, 30m minutes"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (2, "2s"),
        (90, "1m30s"),
        (300, "5m"),
        (5400, "1h30m"),
        (86400, "1d"),
        (604800, "1w"),
        (1296000, "15d"),
        (0, "0s"),
    ],
)
def test_a_duration_is_said_as_short_as_it_can_be(seconds: float, text: str) -> None:
    assert durations.text(seconds) == text


@given(st.integers(1, int(durations.LONGEST)))
def test_what_is_said_is_read_as_the_same(seconds: int) -> None:
    assert durations.parse(durations.text(seconds)) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (0.4, "0s"), (59.9, "59s"), (60, "1m"), (3599, "59m"), (7199, "1h"), (86400, "1d"), (1e7, "115d")],
)
def test_an_age_is_said_in_its_largest_unit(seconds: float, text: str) -> None:
    assert durations.rough(seconds) == text
