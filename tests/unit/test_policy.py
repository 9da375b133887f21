"""Which snapshots are kept: restic's rules, by the examples of its documentation and against a plain reckoning."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from criu_agent.model import Host, Manifest, Snapshot
from criu_agent.repo.policy import AUTOMATIC, Kept, Policy, is_automatic, keep, surplus

DAY, HOUR = 86400.0, 3600.0
NOW = datetime(2030, 1, 1, tzinfo=UTC)
MANIFEST = Manifest(
    run_id="run",
    run_name="agent",
    sequence=1,
    parent="",
    created="",
    reason="every 5m",
    stopped=False,
    argv=("bash",),
    workdir="/srv",
    labels={},
    tags=(),
    host=Host(hostname="h", boot_id="b", kernel="6.1", machine="x86_64", page_size=4096, criu="4.1.1"),
    resources={AUTOMATIC: {}},
)


def taken(*times: str | datetime, run: str = "run", tags: tuple[str, ...] = ()) -> list[Snapshot]:
    """Snapshots of one run at those times, in that order. The id is the time."""
    moments = [time if isinstance(time, datetime) else datetime.fromisoformat(time) for time in times]
    return [
        Snapshot(
            id=moment.strftime("%Y-%m-%d %H:%M:%S") + ("" if run == "run" else f" {run}"),
            manifest=replace(
                MANIFEST,
                run_id=run,
                sequence=number,
                created=moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                tags=tags,
            ),
            tags=tags,
            generation=1,
        )
        for number, moment in enumerate(moments, 1)
    ]


def ids(snapshots: Sequence[Snapshot]) -> list[str]:
    return [one.id for one in snapshots]


def kept_of(snapshots: Sequence[Snapshot], policy: Policy, now: datetime = NOW) -> list[Kept]:
    kept, dropped = keep(snapshots, policy, now=now)
    assert sorted([one.snapshot.id for one in kept] + ids(dropped)) == sorted(ids(snapshots)), (
        "each is in one of them"
    )
    assert all(one.reasons for one in kept)
    return kept


def kept_ids(snapshots: Sequence[Snapshot], policy: Policy, now: datetime = NOW) -> list[str]:
    return [one.snapshot.id for one in kept_of(snapshots, policy, now)]


# -- restic's own examples (doc/060_forget.rst)

SUNDAYS = taken(*(datetime(2019, 9, 1, 11, tzinfo=UTC) + timedelta(weeks=week) for week in range(12)))


def test_restic_s_sundays_keep_daily_4_keeps_the_last_four() -> None:
    kept = kept_of(SUNDAYS, Policy(keep_daily=4))
    assert [one.snapshot.id[:10] for one in kept] == ["2019-10-27", "2019-11-03", "2019-11-10", "2019-11-17"]
    assert {one.reasons for one in kept} == {("daily snapshot",)}


def test_restic_s_days_of_years_keep_seven_days_and_four_more_ends_of_weeks() -> None:
    days = taken(*(datetime(2019, 1, 1, 12, tzinfo=UTC) + timedelta(days=day) for day in range(1000)))
    kept = kept_of(days, Policy(keep_daily=7, keep_weekly=5))
    assert len(kept) == 7 + 4, "the seven days include the end of one week"
    assert sum("daily snapshot" in one.reasons for one in kept) == 7
    assert sum("weekly snapshot" in one.reasons for one in kept) == 5
    for one in kept[:4]:
        assert datetime.fromisoformat(one.snapshot.manifest.created).isoweekday() == 7, "Monday 00:00 to Sunday 23:59"


def test_one_snapshot_may_match_several_rules() -> None:
    kept = kept_of(SUNDAYS, Policy(keep_last=1, keep_hourly=1, keep_daily=1, keep_weekly=1, keep_within=HOUR))
    [one] = kept
    assert one.reasons == ("within 1h", "last snapshot", "hourly snapshot", "daily snapshot", "weekly snapshot")


def test_within_reaches_back_from_the_newest_snapshot_and_not_from_now() -> None:
    assert kept_ids(SUNDAYS, Policy(keep_within=14 * DAY)) == ids(SUNDAYS[-2:]), "exactly as old is too old"
    assert kept_ids(SUNDAYS, Policy(keep_within=14 * DAY + 1)) == ids(SUNDAYS[-3:])


def test_the_oldest_is_kept_when_there_are_fewer_than_were_asked_for() -> None:
    times = ["2026-01-01T08:00:00Z", "2026-01-01T09:00:00Z", "2026-01-02T08:00:00Z", "2026-01-02T09:00:00Z"]
    kept = kept_of(taken(*times), Policy(keep_daily=3))
    assert [(one.snapshot.id, one.reasons) for one in kept] == [
        ("2026-01-01 08:00:00", ("oldest daily snapshot",)),
        ("2026-01-01 09:00:00", ("daily snapshot",)),
        ("2026-01-02 09:00:00", ("daily snapshot",)),
    ]
    assert len(kept_of(taken(*times), Policy(keep_daily=2))) == 2


def test_snapshots_of_the_future_are_no_measure_and_are_kept_by_within() -> None:
    snapshots = taken("2026-01-01T08:00:00Z", "2026-01-05T08:00:00Z", "2031-01-01T08:00:00Z")
    policy = Policy(keep_within=2 * DAY)
    assert kept_ids(snapshots, policy) == ids(snapshots[1:])
    only = taken("2031-01-01T08:00:00Z")
    assert kept_ids(only, policy) == ids(only)


def test_a_policy_that_says_nothing_keeps_everything() -> None:
    assert {one.reasons for one in kept_of(SUNDAYS, Policy())} == {("the policy is empty",)}
    assert len(kept_of(SUNDAYS, Policy())) == 12
    assert kept_of([], Policy(keep_last=3)) == []


# -- tags


def test_a_list_of_tags_means_all_of_them_and_several_lists_any_of_them() -> None:
    plain, foo, both, bar = taken(*(f"2026-01-0{day}T08:00:00Z" for day in range(1, 5)))
    foo, both, bar = tagged(foo, "foo"), tagged(both, "foo", "bar"), tagged(bar, "bar")
    everything = [plain, foo, both, bar]
    assert kept_ids(everything, Policy(keep_tags=(("foo",),))) == ids([foo, both])
    assert kept_ids(everything, Policy(keep_tags=(("foo", "bar"),))) == ids([both])
    assert kept_ids(everything, Policy(keep_tags=(("foo",), ("bar",)))) == ids([foo, both, bar])
    assert kept_ids(everything, Policy(keep_tags=(("",),))) == ids([plain])
    assert kept_ids(everything, Policy(keep_tags=(("other",),))) == []
    [_, kept] = kept_of(everything, Policy(keep_tags=(("foo", "bar"),), keep_last=1))
    assert kept.reasons == ("last snapshot",)


def tagged(snapshot: Snapshot, *tags: str) -> Snapshot:
    return replace(snapshot, tags=tags)


def test_tags_do_not_count_for_the_other_rules_and_are_no_exception_from_them() -> None:
    snapshots = [tagged(one, "foo") if n == 3 else one for n, one in enumerate(SUNDAYS)]
    assert kept_ids(snapshots, Policy(keep_tags=(("foo",),), keep_last=2)) == ids([snapshots[3], *snapshots[-2:]])


# -- runs


def test_each_run_is_judged_for_itself() -> None:
    busy = taken(*(f"2026-01-02T{hour:02}:00:00Z" for hour in range(24)), run="busy")
    quiet = taken("2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z", run="quiet")
    assert kept_ids([*busy, *quiet], Policy(keep_last=2)) == ids([*busy[-2:], *quiet])
    assert kept_ids([*quiet, *busy], Policy(keep_within=DAY)) == ids([quiet[1], *busy])


def test_within_a_run_its_own_numbers_count_and_not_the_clock() -> None:
    """The clock was set back by a year after the second snapshot."""
    snapshots = taken("2026-01-01T08:00:00Z", "2026-01-02T08:00:00Z", "2025-01-03T08:00:00Z")
    for order in (snapshots, snapshots[::-1]):
        assert kept_ids(order, Policy(keep_last=1)) == ids(snapshots[2:])


def test_what_is_protected_stays_and_says_why() -> None:
    protected = {SUNDAYS[2].id: "the run was stopped at it", "elsewhere": "of another repository"}
    kept, dropped = keep(SUNDAYS, Policy(keep_last=2), now=NOW, protected=protected)
    assert [(one.snapshot.id, one.reasons) for one in kept] == [
        (SUNDAYS[2].id, ("the run was stopped at it",)),
        (SUNDAYS[10].id, ("last snapshot",)),
        (SUNDAYS[11].id, ("last snapshot",)),
    ]
    assert len(dropped) == 9


# -- against a plain reckoning

moments = st.lists(
    st.datetimes(datetime(2025, 12, 20), datetime(2026, 1, 10)).map(lambda time: time.replace(tzinfo=UTC)),
    max_size=40,
    unique_by=lambda time: time.replace(microsecond=0),
)
policies = st.builds(
    Policy,
    keep_last=st.integers(0, 5),
    keep_hourly=st.integers(0, 5),
    keep_daily=st.integers(0, 5),
    keep_weekly=st.integers(0, 3),
    keep_within=st.sampled_from([0.0, HOUR, DAY, 7 * DAY]),
)


@settings(max_examples=300)
@given(moments, policies)
def test_every_rule_keeps_the_newest_of_its_first_buckets(times: list[datetime], policy: Policy) -> None:
    times.sort()
    wanted: set[datetime] = set()
    rules = [
        (policy.keep_last, "%Y-%m-%d %H:%M:%S.%f"),
        (policy.keep_hourly, "%Y-%m-%d %H"),
        (policy.keep_daily, "%Y-%m-%d"),
        (policy.keep_weekly, "%G-%V"),
    ]
    for count, bucket in rules:
        newest = {time.strftime(bucket): time for time in times}  # of equal ones the last wins
        chosen = sorted(newest.values())[-count:] if count else []
        wanted |= set(chosen)
        if count > len(newest) and times:
            wanted.add(times[0])
    if policy.keep_within:
        wanted |= {time for time in times if (times[-1] - time).total_seconds() < policy.keep_within}
    if policy == Policy():
        wanted = set(times)
    snapshots = taken(*times)
    assert kept_ids(snapshots, policy) == [
        one.id for one, time in zip(snapshots, times, strict=True) if time in wanted
    ]


# -- run --keep-last


def by_user(snapshot: Snapshot, **changes: object) -> Snapshot:
    manifest = replace(snapshot.manifest, resources={}, reason="every 5m", **changes)  # type: ignore[arg-type]
    return replace(snapshot, manifest=manifest)


def test_keep_last_of_run_drops_the_older_automatic_ones() -> None:
    assert surplus(SUNDAYS, "run", 3) == SUNDAYS[:9]
    assert surplus(SUNDAYS[::-1], "run", 3) == SUNDAYS[:9], "in whatever order they come"
    assert surplus(SUNDAYS, "run", 12) == surplus(SUNDAYS, "run", 100) == surplus([], "run", 1) == []
    assert surplus(SUNDAYS, "run", 1) == SUNDAYS[:-1]


def test_keep_last_of_run_drops_nothing_that_a_person_wanted_and_does_not_count_it() -> None:
    snapshots = list(SUNDAYS)
    snapshots[1] = by_user(SUNDAYS[1])
    snapshots[2] = tagged(SUNDAYS[2], "before the deploy")
    snapshots[10] = by_user(SUNDAYS[10], stopped=True)
    assert not is_automatic(snapshots[1].manifest), "whatever its reason"
    assert surplus(snapshots, "run", 2) == [snapshots[0], *snapshots[3:9]]


def test_keep_last_of_run_never_drops_what_it_was_stopped_at() -> None:
    stopped = replace(SUNDAYS[0], manifest=replace(SUNDAYS[0].manifest, stopped=True))
    assert surplus([stopped, *SUNDAYS[1:]], "run", 1) == SUNDAYS[1:11]


def test_keep_last_of_run_touches_no_other_run() -> None:
    other = taken("2026-01-01T08:00:00Z", "2026-01-02T08:00:00Z", run="other")
    assert surplus([*other, *SUNDAYS], "run", 11) == SUNDAYS[:1]
    assert surplus([*other, *SUNDAYS], "other", 1) == other[:1]


@pytest.mark.parametrize("count", range(1, 6))
@given(st.lists(st.sampled_from(["automatic", "tagged", "user", "stopped"]), max_size=12))
def test_the_newest_snapshot_is_never_dropped_and_count_automatic_ones_stay(count: int, kinds: list[str]) -> None:
    line = taken(*(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=n) for n in range(len(kinds))))
    change = {
        "automatic": lambda one: one,
        "tagged": lambda one: tagged(one, "t"),
        "user": by_user,
        "stopped": lambda one: by_user(one, stopped=True),
    }
    line = [change[kind](one) for kind, one in zip(kinds, line, strict=True)]
    dropped = surplus(line, "run", count)
    automatic = [one for one, kind in zip(line, kinds, strict=True) if kind == "automatic"]
    assert dropped == automatic[: max(len(automatic) - count, 0)]
    assert not line or line[-1] not in dropped
