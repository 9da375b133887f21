"""Which snapshots to keep: restic's rules for `forget --keep-*`. Pure; nothing is read or deleted here.

A snapshot is kept if one rule wants it; what no rule wants is dropped. Each run is judged for itself, so that one
that is busy never pushes another one's snapshots out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from criu_agent import durations
from criu_agent.model import Manifest, Snapshot
from criu_agent.repo.specs import of_run

AUTOMATIC = "automatic"  # the resource of a manifest that says that no person asked for the snapshot
_Bucket = Callable[[datetime, int], object]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What is to be kept. 0 and () say nothing; a policy that says nothing at all keeps everything.

    keep_hourly, keep_daily, keep_weekly: of the last N hours, days, ISO weeks (all UTC) that have a snapshot, the
    newest one each. keep_within: seconds before the run's newest snapshot. keep_tags: lists of tags; a snapshot with
    all tags of one of them is kept, and ("",) means those without a tag.
    """

    keep_last: int = 0
    keep_hourly: int = 0
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_within: float = 0.0
    keep_tags: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A snapshot that stays, and each reason for it."""

    snapshot: Snapshot
    reasons: tuple[str, ...]


def keep(
    snapshots: Sequence[Snapshot], policy: Policy, *, now: datetime, protected: Mapping[str, str] | None = None
) -> tuple[list[Kept], list[Snapshot]]:
    """What stays and what goes of these snapshots, both oldest first within each run.

    protected: ids that stay whatever the policy says, each with the reason. They count for the other rules like all.
    now is for snapshots of the future (a clock was wrong): "within" is not measured from them.
    """
    kept: list[Kept] = []
    dropped: list[Snapshot] = []
    for run in dict.fromkeys(one.manifest.run_id for one in snapshots):
        line = of_run(run, snapshots)
        for snapshot, found in zip(line, _reasons(line, policy, now), strict=True):
            always = (protected or {}).get(snapshot.id)
            reasons = (*([always] if always else []), *found)
            if reasons:
                kept.append(Kept(snapshot=snapshot, reasons=reasons))
            else:
                dropped.append(snapshot)
    return kept, dropped


def surplus(snapshots: Sequence[Snapshot], run_id: str, count: int) -> list[Snapshot]:
    """What `run --keep-last` drops: that run's automatic snapshots without a tag, but for the newest `count`.

    Never the run's newest snapshot, and none that a person asked for or that the run was stopped at.
    """
    line = of_run(run_id, snapshots)
    ours = [one for one in line if is_automatic(one.manifest) and not one.tags and not one.manifest.stopped]
    return [one for one in ours[:-count] if one is not line[-1]]


def newest(snapshots: Sequence[Snapshot], run_id: str) -> str:
    """The id of that run's newest snapshot by its number; "" if it has none."""
    line = of_run(run_id, snapshots)
    return line[-1].id if line else ""


def is_automatic(manifest: Manifest) -> bool:
    """Whether the supervisor took it by itself. Its reason does not tell: a user may give any."""
    return AUTOMATIC in manifest.resources


def _reasons(line: Sequence[Snapshot], policy: Policy, now: datetime) -> list[list[str]]:
    """For each snapshot of one run, which come oldest first, why it is kept."""
    if policy == Policy():
        return [["the policy is empty"] for _ in line]
    times = [_time(one) for one in line]
    reasons: list[list[str]] = [[] for _ in line]
    _add_tagged(reasons, line, policy.keep_tags)
    if policy.keep_within:
        _add_within(reasons, times, policy.keep_within, now)
    buckets: list[tuple[int, str, _Bucket]] = [
        (policy.keep_last, "last snapshot", lambda _, number: number),
        (policy.keep_hourly, "hourly snapshot", lambda time, _: (time.date(), time.hour)),
        (policy.keep_daily, "daily snapshot", lambda time, _: time.date()),
        (policy.keep_weekly, "weekly snapshot", lambda time, _: time.isocalendar()[:2]),
    ]
    for count, reason, bucket in buckets:
        _add_newest_of_each(reasons, times, count, reason, bucket)
    return reasons


def _add_tagged(reasons: list[list[str]], line: Sequence[Snapshot], wanted: Sequence[Sequence[str]]) -> None:
    for found, snapshot in zip(reasons, line, strict=True):
        tags = set(snapshot.tags)
        for one in wanted:
            if set(one) <= tags:
                found.append(f"has the tag {', '.join(one)}")
            elif set(one) == {""} and not tags:
                found.append("has no tag")


def _add_within(reasons: list[list[str]], times: Sequence[datetime], seconds: float, now: datetime) -> None:
    past = [time for time in times if time <= now]
    begin = (max(past) if past else now) - timedelta(seconds=seconds)
    for found, time in zip(reasons, times, strict=True):
        if time > begin:
            found.append(f"within {durations.text(seconds)}")


def _add_newest_of_each(
    reasons: list[list[str]], times: Sequence[datetime], count: int, reason: str, bucket: _Bucket
) -> None:
    """The newest of each bucket, from the end on, as long as the count lasts.

    If it lasts to the oldest snapshot, that one is kept too, as restic does: with fewer days than were asked for, the
    history that is kept is to reach as far back as it can.
    """
    last: object = None
    for number in range(len(times) - 1, -1, -1):
        if not count:
            return
        value = bucket(times[number], number)
        if value != last or number == 0:
            reasons[number].append(reason if value != last else f"oldest {reason}")
            last = value
            count -= 1


def _time(snapshot: Snapshot) -> datetime:
    return datetime.fromisoformat(snapshot.manifest.created).astimezone(UTC)
