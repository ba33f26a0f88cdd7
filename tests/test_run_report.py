"""`jam.run(name).report()`: whether a run is well."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from recorded_envs import CountingEnv, ScriptedEnv

from jamboree_gym import Jamboree, RunNotFound
from jamboree_gym.runs.checkpoints import CheckpointHandler
from jamboree_gym.runs.metrics import MetricHandler, metric_table
from jamboree_gym.runs.run_report import report_of_run
from jamboree_gym.runs.run_summary import RunSummary
from jamboree_gym.runs.sessions import SessionHandler
from jamboree_gym.tables.text_table import averaged, sparkline

HOUR_S = 3600.0


class Clock:
    """Time that a test makes go on."""

    now = 1e9

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jam(open_jamboree: Callable[..., Jamboree], clock: Clock) -> Jamboree:
    return open_jamboree(clock=clock)


def steps(env: Any, count: int, clock: Clock, *, apart_s: float = 1.0) -> None:
    for _ in range(count):
        clock.wait(apart_s)
        env.step(env.action_space.sample())


def test_a_run_that_is_silent_for_a_minute_is_stuck(jam: Jamboree, clock: Clock) -> None:
    env = jam.record(CountingEnv(length=99), run="a")
    env.reset(seed=1)
    steps(env, 5, clock)
    clock.wait(59)
    assert not jam.run("a").report().is_stuck
    clock.wait(2)
    report = jam.run("a").report()
    assert report.is_stuck
    assert report.silent_s == 61
    assert report.warnings == (
        "no step, metrics or checkpoint for 61 s: is its process stopped, or does it wait for "
        "something?",
    )
    assert str(report).startswith("a: running, but stuck; 0 steps/s, newest sign 1 min ago\n")
    env.close()
    assert not jam.run("a").report().is_stuck


def test_a_run_that_logs_seldom_may_be_silent_for_longer(jam: Jamboree, clock: Clock) -> None:
    env = jam.record(CountingEnv(length=99), run="a")
    env.reset(seed=1)
    for number in range(5):
        clock.wait(100)
        MetricHandler(jam, "a").put(number, session="s", values={"loss": 0.5})
    clock.wait(299)
    assert not jam.run("a").report().is_stuck
    clock.wait(2)
    assert jam.run("a").report().is_stuck
    env.close()


def test_steps_a_second_are_those_of_the_last_minute(jam: Jamboree, clock: Clock) -> None:
    env = jam.record(CountingEnv(length=999), run="a")
    env.reset(seed=1)
    assert jam.run("a").summary.steps_per_s == 0
    steps(env, 30, clock)
    assert jam.run("a").summary.steps_per_s == pytest.approx(1)
    steps(env, 100, clock)
    assert jam.run("a").summary.steps_per_s == pytest.approx(1)
    clock.wait(30)
    assert jam.run("a").summary.steps_per_s == pytest.approx(0.5)
    clock.wait(60)
    assert jam.run("a").summary.steps_per_s == 0
    env.close()


def test_metrics_and_returns_are_as_now_and_an_hour_before(jam: Jamboree, clock: Clock) -> None:
    env = jam.record(CountingEnv(length=2), run="a")
    handler = MetricHandler(jam, "a")

    def play(loss: float) -> None:
        env.reset(seed=1)
        steps(env, env.unwrapped.length, clock)
        handler.put(1, session="s", values={"loss": loss, "note": "text"})

    play(0.75)
    env.unwrapped.length = 3
    clock.wait(HOUR_S)
    play(0.5)
    handler.put(2, session="s", values={"new": 4})
    env.close()

    report = jam.run("a").report()

    assert (report.metrics, report.metrics_before) == ({"loss": 0.5, "new": 4.0}, {"loss": 0.75})
    assert list(report.returns) == [3.0, 6.0]
    assert (report.summary.mean_return, report.mean_return_before) == (4.5, 3.0)
    assert "loss" in str(report)


def test_what_is_odd_is_warned_of(jam: Jamboree, clock: Clock) -> None:
    env = jam.record(ScriptedEnv(rewards=[math.nan, 1.0]), run="a")
    env.unwrapped.length = 1
    env.reset(seed=1)
    steps(env, 1, clock)
    env.close()
    sessions = SessionHandler(jam, "a")
    sessions.begin("s", timesteps=0, resumed_from=None, steps={}, info={})
    CheckpointHandler(jam, "a").put(b"zip", timesteps=1, policy_version=1, session="s")
    clock.wait(11 * 60)
    MetricHandler(jam, "a").put(1, session="s", values={"loss": math.inf})

    report = jam.run("a").report()

    assert report.warnings == (
        "the return of 1 episode is no finite number",
        "loss is inf",
        "no checkpoint for 11 min",
    )
    assert report.checkpoint is not None
    assert report.checkpoint.number == 0
    sessions.end("s", "raised", timesteps=1)
    assert "its newest session ended with an exception" in jam.run("a").report().warnings


def test_a_run_that_was_cut_off_is_warned_of() -> None:
    summary = RunSummary("a", "interrupted", ["X-v0"], 1, 9, 0.0, 9.0, None, 0)
    report = report_of_run(summary, [], [], metric_table([], where="a"), None, now=10.0)
    assert report.warnings == ("its process died before it came to its end",)
    assert not report.is_stuck


def test_a_run_of_sessions_alone_has_a_report_and_a_misspelt_one_has_none(jam: Jamboree) -> None:
    SessionHandler(jam, "a").begin("s", timesteps=0, resumed_from=None, steps={}, info={})
    report = jam.run("a").report()
    assert (report.summary.state, report.silent_s) == ("running", 0.0)
    assert list(report.returns) == []
    with pytest.raises(RunNotFound, match="no run 'b'; there is a"):
        jam.run("b").report()


def test_a_sparkline_has_a_bar_for_each_value_or_for_each_mean() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([1.0, math.nan, 3.0]) == "▁ █"
    assert sparkline([2.0, 2.0]) == "▄▄"
    assert sparkline([math.nan]) == " "
    assert sparkline([]) == ""
    assert averaged([1, 2, 3, 4, 5], 2) == [1.5, 4.0]
    assert len(sparkline(list(range(1000)))) == 60
