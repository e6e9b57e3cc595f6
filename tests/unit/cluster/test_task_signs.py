"""What a driver makes of the signs of a stage's process, by a clock of the test's own."""

from cluster.attention import AttentiveClock
from cluster.task_signs import TaskLimits, TaskSign, TaskWatchdog

LIMITS = TaskLimits(heartbeat_timeout=30.0, stage_timeout=3600.0)
RUNNING = TaskSign("0123456789abcdef", 7, 1.0, 0.0)


class Hands:
    """The hands of a clock, which a test moves."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def watchdog_of(reports: list[tuple[str, str]], hands: Hands) -> TaskWatchdog:
    watchdog = TaskWatchdog(AttentiveClock(5.0, hands))
    watchdog.begin("evaluate", LIMITS, lambda message, stack: reports.append((message, stack)))
    return watchdog


def test_silence_is_reported_once_and_again_after_a_sign() -> None:
    reports: list[tuple[str, str]] = []
    watchdog = watchdog_of(reports, hands := Hands())
    for now in range(100):
        hands.at = float(now)
        watchdog.check()
    assert reports == [], "before its first sign a task may wait for room"
    watchdog.note("evaluate", RUNNING)
    for now in range(100, 200):
        hands.at = float(now)
        watchdog.check()
    assert reports == [("its process (7, node 01234567) gave no sign of life for 31 s: the stage waits for it", "")]
    watchdog.note("evaluate", RUNNING)
    for now in range(200, 240):
        hands.at = float(now)
        watchdog.check()
    assert len(reports) == 2


def test_the_time_of_a_paused_machine_does_not_count() -> None:
    reports: list[tuple[str, str]] = []
    watchdog = watchdog_of(reports, hands := Hands())
    watchdog.note("evaluate", RUNNING)
    for now in (0.0, 7200.0, 7201.0):  # two hours in which the driver stood still, too
        hands.at = now
        watchdog.check()
    assert reports == []


def test_a_process_that_hangs_is_reported_with_its_stack_and_one_that_computes_is_not() -> None:
    reports: list[tuple[str, str]] = []
    watchdog = watchdog_of(reports, hands := Hands())
    for now in range(0, 3600, 5):
        watchdog.note("evaluate", RUNNING)
        hands.at = float(now)
        watchdog.check()
    assert reports == []
    for still in (1799.0, 1801.0, 1806.0):
        watchdog.note("evaluate", TaskSign("0123456789abcdef", 7, 1.0, still, "the stack"))
        hands.at = 3600.0 + still
        watchdog.check()
    (report,) = reports
    assert report == (
        "its process (7, node 01234567) hangs in one call for 1801 s already; its limit (resources.stage_timeout) is "
        "3600 s", "the stack",
    )  # fmt: skip


def test_a_task_that_has_ended_is_watched_no_longer() -> None:
    reports: list[tuple[str, str]] = []
    watchdog = watchdog_of(reports, hands := Hands())
    watchdog.note("evaluate", RUNNING)
    watchdog.end("evaluate")
    watchdog.note("evaluate", RUNNING)  # sent before its end
    for now in range(100):
        hands.at = float(now)
        watchdog.check()
    assert reports == []
