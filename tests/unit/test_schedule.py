"""When an automatic checkpoint is due: with a clock that the test sets."""

import pytest

from criu_agent.supervisor.schedule import Schedule


class World:
    """A clock, the CPU time of a run, and dice that always fall on the bound."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.cpu = 7.0
        self.drawn: list[tuple[float, float]] = []

    def schedule(self, *, every: float | None = None, on_idle: float | None = None, saved: bool = False) -> Schedule:
        return Schedule(
            every=every,
            on_idle=on_idle,
            saved=saved,
            clock=lambda: self.now,
            cpu=lambda: self.cpu,
            jitter=self._draw,
        )

    def _draw(self, low: float, high: float) -> float:
        self.drawn.append((low, high))
        return high

    def run(
        self, schedule: Schedule, seconds: float, *, cpu: float = 0.0, prints: bool = False
    ) -> list[tuple[float, str]]:
        """Let time pass, with a run that uses that share of a CPU; when what was due, asked as the loop asks.

        Each checkpoint that was due is taken at once.
        """
        end, found = self.now + seconds, []
        while True:
            wait = schedule.wait()
            step = end - self.now if wait is None else min(wait, end - self.now)
            self.now += step
            self.cpu += step * cpu
            if prints:
                schedule.active()
            if reason := schedule.due():
                found.append((round(self.now - end + seconds, 3), reason))
                schedule.frozen()
                schedule.succeeded()
            if self.now >= end:
                return found
            assert len(found) < 1000, "due again and again"


@pytest.fixture
def world() -> World:
    return World()


# -- every


def test_without_settings_nothing_is_ever_due(world: World) -> None:
    schedule = world.schedule()
    assert schedule.wait() is None
    assert schedule.due() == ""
    schedule.active()
    assert world.run(schedule, 1e6, cpu=1.0, prints=True) == []


def test_every_counts_from_the_start_and_says_the_reason_as_it_was_typed(world: World) -> None:
    schedule = world.schedule(every=300)
    assert schedule.wait() == 300
    assert world.run(schedule, 1000) == [(300, "every 5m"), (600, "every 5m"), (900, "every 5m")]


def test_every_counts_from_the_end_of_the_last_checkpoint(world: World) -> None:
    schedule = world.schedule(every=10)
    world.now += 10
    assert schedule.due() == "every 10s"
    schedule.frozen()
    world.now += 25  # longer than the interval: the next one is not due at once
    schedule.succeeded()
    assert schedule.due() == ""
    assert schedule.wait() == 10


def test_a_checkpoint_that_the_user_took_counts_as_well(world: World) -> None:
    schedule = world.schedule(every=10)
    world.now += 9
    schedule.frozen()
    schedule.succeeded()
    world.now += 9
    assert schedule.due() == ""
    world.now += 1
    assert schedule.due() == "every 10s"


def test_one_of_the_user_that_failed_changes_nothing(world: World) -> None:
    schedule = world.schedule(every=10)
    world.now += 9
    schedule.frozen()
    world.now += 1
    assert schedule.due() == "every 10s"
    assert world.drawn == []


# -- failures


def test_after_a_failure_it_is_due_again_after_a_pause_that_grows_up_to_a_bound(world: World) -> None:
    schedule = world.schedule(every=60)
    world.now += 60
    pauses = []
    for _ in range(40):
        assert schedule.due() == "every 1m"
        pauses.append(schedule.failed())
        assert schedule.wait() == pytest.approx(pauses[-1])
        assert schedule.due() == ""
        world.now += pauses[-1] * 0.99
        assert schedule.due() == ""
        world.now += pauses[-1] * 0.0101
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, *[300] * 31]


def test_the_pause_is_drawn_from_nothing_to_its_bound(world: World) -> None:
    schedule = world.schedule(every=60)
    for _ in range(3):
        schedule.failed()
    assert world.drawn == [(0.0, 1.0), (0.0, 2.0), (0.0, 4.0)]


def test_a_success_ends_the_pauses(world: World) -> None:
    schedule = world.schedule(every=60)
    for _ in range(5):
        schedule.failed()
    schedule.frozen()
    schedule.succeeded()
    assert world.run(schedule, 130) == [(60, "every 1m"), (120, "every 1m")]
    assert schedule.failed() == 1


def test_a_user_s_success_ends_the_pause_that_a_failure_began(world: World) -> None:
    schedule = world.schedule(every=10)
    for _ in range(9):
        schedule.failed()
    schedule.frozen()
    schedule.succeeded()
    assert schedule.wait() == 10


def test_an_idle_run_that_could_not_be_saved_is_tried_again(world: World) -> None:
    schedule = world.schedule(on_idle=30)
    world.now += 30
    assert schedule.due() == "idle"
    pause = schedule.failed()
    assert schedule.due() == ""
    world.now += pause
    assert schedule.due() == "idle"
    schedule.frozen()  # the next attempt is given up while it is stored
    schedule.failed()
    assert [reason for _, reason in world.run(schedule, 100)] == ["idle"]


# -- idle


def test_a_run_that_does_nothing_is_saved_once(world: World) -> None:
    assert world.run(world.schedule(on_idle=30), 10_000) == [(30, "idle")]


def test_a_restored_run_that_does_nothing_is_in_the_store_already(world: World) -> None:
    schedule = world.schedule(on_idle=30, saved=True)
    assert world.run(schedule, 10_000) == []
    schedule.active()
    assert len(world.run(schedule, 10_000)) == 1


def test_a_run_that_prints_is_not_idle_and_is_saved_when_it_has_stopped(world: World) -> None:
    schedule = world.schedule(on_idle=30)
    assert world.run(schedule, 500, prints=True) == []
    [(after, reason)] = world.run(schedule, 500)
    assert reason == "idle"
    assert 30 <= after <= 36


def test_a_run_that_computes_is_not_idle(world: World) -> None:
    schedule = world.schedule(on_idle=30)
    assert world.run(schedule, 10_000, cpu=0.2) == []
    assert len(world.run(schedule, 10_000)) == 1


def test_a_full_screen_program_that_waits_at_its_prompt_is_idle_and_is_saved_once(world: World) -> None:
    """OpenCode uses up to 6 % of a CPU while it waits for its user."""
    schedule = world.schedule(on_idle=30)
    assert len(world.run(schedule, 10_000, cpu=0.06)) == 1


def test_what_a_dump_uses_of_the_cpu_does_not_make_the_run_busy(world: World) -> None:
    schedule = world.schedule(on_idle=30)
    world.now += 30
    assert schedule.due() == "idle"
    world.cpu += 20  # the parasite that reads the memory
    schedule.frozen()
    world.cpu += 0.05  # and its removal
    schedule.succeeded()
    assert world.run(schedule, 10_000) == []


def test_what_happened_while_the_snapshot_was_stored_is_news(world: World) -> None:
    schedule = world.schedule(on_idle=30)
    world.now += 30
    assert schedule.due() == "idle"
    schedule.frozen()
    world.now += 1
    schedule.active()
    world.now += 100
    schedule.succeeded()
    assert [reason for _, reason in world.run(schedule, 1000)] == ["idle"]


def test_what_was_printed_before_the_freeze_is_no_news(world: World) -> None:
    schedule = world.schedule(on_idle=30)
    world.now += 30
    assert schedule.due() == "idle"
    world.now += 1
    schedule.active()
    schedule.frozen()
    schedule.succeeded()
    assert world.run(schedule, 1000) == []


def test_a_snapshot_that_the_user_took_is_not_taken_again(world: World) -> None:
    schedule = world.schedule(on_idle=30)
    schedule.active()
    world.now += 1
    schedule.frozen()
    schedule.succeeded()
    assert world.run(schedule, 1000) == []


def test_a_short_burst_of_work_is_news(world: World) -> None:
    schedule = world.schedule(on_idle=30)
    assert len(world.run(schedule, 100)) == 1
    assert world.run(schedule, 100_000) == []
    world.cpu += 5.0
    assert len(world.run(schedule, 100)) == 1, "however long it was quiet before"
    assert world.run(schedule, 100) == []


def test_the_cpu_time_is_not_looked_at_all_the_time(world: World) -> None:
    looks = 0

    def cpu() -> float:
        nonlocal looks
        looks += 1
        return 0.0

    schedule = Schedule(every=None, on_idle=30, saved=True, clock=lambda: world.now, cpu=cpu)
    for _ in range(10_000):  # a run that prints all the time turns the loop as often
        schedule.active()
        schedule.due()
        world.now += 0.003
    assert looks < 50


# -- both


def test_both_may_be_wanted_and_each_gives_its_reason(world: World) -> None:
    schedule = world.schedule(every=100, on_idle=30)
    assert world.run(schedule, 320) == [(30, "idle"), (130, "every 1m40s"), (230, "every 1m40s")]
