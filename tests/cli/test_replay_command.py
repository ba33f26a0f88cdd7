"""`jamboree-gym replay`: an episode is played again, and each step is compared."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import suppress

import gymnasium as gym
import numpy as np
import pytest
from conftest import Server
from recorded_store import Store, play

from jamboree_envs.faults import GlobalRandom
from jamboree_gym.cli.live_screen import Drawing
from jamboree_gym.cli.terminal_picture import rendered_lines

ODD = "tests/OddReplay-v0"


class OddEnv(GlobalRandom):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012 - as in gym.Env

    def __init__(self, render_mode: str | None = None, fault: bool = False) -> None:
        super().__init__(fault=fault)
        self.render_mode = render_mode


@pytest.fixture(scope="module")
def store(valkey: Server, mongo: Server) -> Iterator[Store]:
    """An episode of CartPole, one of FrozenLake, and one that does not happen again."""
    made = Store(valkey.url, mongo.url, f"test-{uuid.uuid4().hex[:12]}")
    gym.register(ODD, entry_point=OddEnv)
    with made.open() as jam:
        play(jam.record(gym.make("CartPole-v1", render_mode="rgb_array"), run="pole"), 1)
        play(jam.record(gym.make("FrozenLake-v1"), run="lake"), 2)
        env = jam.record(gym.make(ODD, fault=True), run="odd")
        env.reset(seed=1)
        for _ in range(9):
            env.step(1)
        env.close()
    yield made
    gym.registry.pop(ODD)


@pytest.fixture(scope="module")
def ids(store: Store) -> dict[str, str]:
    return {one["run"]: one["id"] for one in store.objects("ls")}


def test_each_step_is_equal_to_the_recording(store: Store, ids: dict[str, str]) -> None:
    recorded = store.objects("find", ids["pole"], "index >= 0")
    played = store.run("replay", ids["pole"], "--json")
    assert played.exit_code == 0, played.output
    found = [json.loads(line) for line in played.stdout.splitlines()]
    assert [(one.pop("equal"), one.pop("difference")) for one in found] == [
        (True, None) for _ in recorded
    ]
    assert found == recorded
    said = f"{len(recorded)} steps played again, equal to the recording, bit for bit\n"
    assert played.stderr == said


def test_it_begins_and_ends_where_it_is_told(store: Store, ids: dict[str, str]) -> None:
    lines = store.lines("replay", ids["pole"], "--from", 3, "--steps", 2)
    assert [(line[0], line[-1]) for line in lines] == [("3", "true"), ("4", "true")]
    recorded = store.lines("replay", ids["pole"], "--from", 3, "--steps", 2, "--recorded")
    assert [line[:-1] for line in recorded] == [line[:-1] for line in lines]
    assert {line[-1] for line in recorded} == {""}


def test_it_ends_at_the_first_difference(store: Store, ids: dict[str, str]) -> None:
    done = store.run("replay", ids["odd"], "--json")
    last = json.loads(done.stdout.splitlines()[-1])
    assert (done.exit_code, last["equal"]) == (1, False)
    assert last["difference"].startswith(f"observation[1] at step {last['index']}: recorded ")
    assert done.stderr.startswith("differs: observation[1] at step ")
    later = store.run("replay", ids["odd"], "--from", 8)
    assert (later.exit_code, later.stdout) == (1, "")
    assert "does not happen again: observation[1] at step" in later.stderr
    assert store.run("replay", ids["odd"], "--recorded").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from", 4000], "--from 4000: the episode has "),
        (["--speed", "fast"], "--speed fast: give steps a second, as 30, or max"),
        (["--speed", "0"], "--speed 0: give steps"),
        (["--render"], "--render needs a terminal"),
        (["--render", "--json"], "choose one of --render, --json and --recorded"),
    ],
)
def test_what_cannot_be_meant_is_exit_code_2(
    store: Store, ids: dict[str, str], arguments: list[object], said: str
) -> None:
    done = store.run("replay", ids["pole"], *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_an_environment_that_is_not_here_is_exit_code_2(store: Store, ids: dict[str, str]) -> None:
    spec = gym.registry.pop(ODD)
    try:
        failed = store.run("replay", ids["odd"])
        shown = store.run("replay", ids["odd"], "--recorded")
    finally:
        gym.registry[ODD] = spec
    assert (failed.exit_code, failed.stdout) == (2, "")
    assert "is not registered here" in failed.stderr
    assert (shown.exit_code, len(shown.stdout.splitlines())) == (0, 9)


def on_a_terminal(store: Store, *arguments: object) -> tuple[str, str, int]:
    """What is written on a terminal of 80 by 24, on stderr, and the exit code."""
    ours, theirs = os.openpty()
    process = store.start(*arguments, stdin=theirs, stdout=theirs)
    os.close(theirs)
    seen = b""
    with suppress(OSError):  # Linux says so at the end
        while part := os.read(ours, 65536):
            seen += part
    said = process.communicate(timeout=60)[1]
    os.close(ours)
    return seen.decode(), said, process.returncode


def test_on_a_terminal_a_text_is_drawn_as_the_environment_renders_it(
    store: Store, ids: dict[str, str]
) -> None:
    arguments = ("replay", ids["lake"], "--render", "--speed", "max")
    seen, said, code = on_a_terminal(store, *arguments)
    assert (code, "equal to the recording, bit for bit" in said) == (0, True)
    assert "step 0 of " in seen
    assert "\x1b[41m" in seen  # the field where the agent is
    assert seen.count("FHFH") >= 1
    assert seen.rstrip().endswith(">")  # the last step stays on the usual screen


def test_on_a_terminal_steps_are_lines_for_people(store: Store, ids: dict[str, str]) -> None:
    seen, _, code = on_a_terminal(store, "replay", ids["odd"], "--recorded", "--speed", "max")
    assert code == 0
    assert re.match(r"<step 0: action ", seen)


def test_a_picture_becomes_two_pixels_a_character() -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[:2, :2] = 200, 10, 10
    picture[2:, 2:] = 10, 10, 200
    lines = rendered_lines(picture, columns=2, rows=1)
    assert lines == ["\x1b[38;2;200;10;10;48;2;0;0;0m▀\x1b[38;2;0;0;0;48;2;10;10;200m▀\x1b[0m"]
    assert all(isinstance(line, Drawing) for line in lines)
    assert len(rendered_lines(picture, columns=80, rows=24)) == 24  # enlarged, in its shape


def test_without_colours_a_picture_has_greys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    picture = np.repeat(np.array([[0, 255]], np.uint8), 2, axis=0)[..., None].repeat(3, axis=2)
    assert rendered_lines(picture, columns=2, rows=1) == [" @"]


def test_a_rendered_text_may_colour_and_nothing_else() -> None:
    assert rendered_lines("\x1b[41mS\x1b[0mF\x1b[2J\nFH", 80, 24) == [
        "\x1b[41mS\x1b[0mF\\x1b[2J\x1b[0m",
        "FH\x1b[0m",
    ]


def test_drawing_a_picture_ends_by_itself(store: Store, ids: dict[str, str]) -> None:
    arguments = ("replay", ids["pole"], "--render", "--speed", "max", "--steps", 3)
    seen, said, code = on_a_terminal(store, *arguments)
    assert code == 0
    assert said.endswith("3 steps played again, equal to the recording, bit for bit\n")
    assert "equal to the recording" in seen
    assert "@@@@" in seen  # NO_COLOR: the ground is white
