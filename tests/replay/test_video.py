"""`video`: the frames of a verified replay, whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from lengths import quick_and_long
from recorded_envs import CountingEnv, FailingEnv, RenderingEnv

import jamboree_envs.faults
from jamboree_gym import Jamboree
from jamboree_gym.errors import ExportError, MissingExtra, ReplayError
from jamboree_gym.reading.episode import Episode
from jamboree_gym.replay import video


class ShrinkingEnv(RenderingEnv):
    """Renders another size after its first step."""

    def render(self) -> Any:
        return super().render()[: 6 - self.count]


class TextEnv(RenderingEnv):
    """Renders text where arrays were asked for."""

    def render(self) -> Any:
        return "a robot"


class FaultyEnv(jamboree_envs.faults.GlobalRandom):
    """A fault to be seen."""

    metadata = RenderingEnv.metadata

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()
        self.render_mode = render_mode

    def render(self) -> Any:
        return np.full((8, 8, 3), self.steps, np.uint8)


SAMPLES = {
    "Rendering": RenderingEnv,
    "Counting": CountingEnv,
    "Failing": FailingEnv,
    "Shrinking": ShrinkingEnv,
    "Text": TextEnv,
    "Faulty": FaultyEnv,
}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    for name, entry_point in SAMPLES.items():
        gym.register(f"tests/{name}-v0", entry_point=entry_point, disable_env_checker=True)
    yield
    for name in SAMPLES:
        gym.registry.pop(f"tests/{name}-v0", None)


def record(jam: Jamboree, env: gym.Env[Any, Any], steps: int = 12, **options: Any) -> Episode:
    """Record the first steps of a seeded episode of random actions."""
    recorded = jam.record(env, **options)
    recorded.action_space.seed(4)
    recorded.reset(seed=3)
    for _ in range(steps):
        *_, terminated, truncated, _ = recorded.step(recorded.action_space.sample())
        if terminated or truncated:
            break
    recorded.close()
    return jam.episode(recorded.episode_id)


def balance(jam: Jamboree, **options: Any) -> Episode:
    render_mode = "rgb_array" if options else None
    return record(
        jam, gym.make("jamboree/Balance-v0", render_mode=render_mode, limit=60), **options
    )


def frames_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def files_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# -- what is in it ----------------------------------------------------------------------------


def test_a_gif_has_the_very_frames_that_the_environment_rendered(
    jam: Jamboree, tmp_path: Path
) -> None:
    episode = balance(jam, record_frames=1)
    written = video(episode, tmp_path / "out.gif")

    assert written
    assert written.frames == 13
    assert written.report.steps == 12
    frames, rendered = frames_of(tmp_path / "out.gif"), [frame for _, frame in episode.renders()]
    assert len(frames) == len(rendered) == 13
    assert all(map(np.array_equal, frames, rendered))


def test_an_mp4_has_a_frame_of_the_reset_and_of_each_step(jam: Jamboree, tmp_path: Path) -> None:
    episode = balance(jam, record_frames=1)
    video(episode, tmp_path / "out.mp4")

    frames = frames_of(tmp_path / "out.mp4")
    assert len(frames) == 13
    for frame, (_, rendered) in zip(frames, episode.renders(), strict=True):
        assert np.abs(frame.astype(int) - rendered).mean() < 2


@pytest.mark.parametrize(
    ("fps", "expected", "suffix"),
    quick_and_long(
        [
            (fps, expected, suffix)
            for fps, expected in [(None, 4), (10, 10), (12.5, 12.5)]
            for suffix in [".mp4", ".gif"]
        ],
        quick=[(None, 4, ".mp4"), (12.5, 12.5, ".gif")],
    ),
)
def test_the_pace_is_that_of_the_environment_or_as_told(
    jam: Jamboree, tmp_path: Path, suffix: str, fps: float | None, expected: float
) -> None:
    path = tmp_path / f"out{suffix}"
    video(balance(jam), path, fps=fps)

    with av.open(str(path)) as container:
        assert float(container.streams.video[0].average_rate) == expected


def test_an_mp4_of_odd_size_grows_by_a_pixel(jam: Jamboree, tmp_path: Path) -> None:
    env = gym.make("tests/Rendering-v0", shape=[65, 33, 3])
    video(record(jam, env), tmp_path / "out.mp4")

    assert frames_of(tmp_path / "out.mp4")[0].shape == (66, 34, 3)


def test_rendering_that_draws_random_numbers_does_not_disturb(
    jam: Jamboree, tmp_path: Path
) -> None:
    assert video(record(jam, gym.make("tests/Rendering-v0")), tmp_path / "out.gif")


def test_an_episode_that_follows_others_is_shown_alone(jam: Jamboree, tmp_path: Path) -> None:
    envs = SyncVectorEnv(
        [lambda: gym.make("CartPole-v1")] * 2, autoreset_mode=AutoresetMode.SAME_STEP
    )
    recorded = jam.record(envs)
    recorded.reset(seed=1)
    for _ in range(60):
        recorded.step(np.array([0, 1]))
    recorded.close()
    episode = next(one for one in jam.episodes() if one.predecessor is not None and len(one) > 5)

    assert video(episode, tmp_path / "out.gif")
    assert len(frames_of(tmp_path / "out.gif")) == len(episode) + 1


def test_what_was_there_is_replaced_only_if_that_is_asked_for(
    jam: Jamboree, tmp_path: Path
) -> None:
    (tmp_path / "out.gif").write_text("an older video")
    episode = balance(jam)
    with pytest.raises(ExportError, match=r"out.gif is there already: overwrite=True replaces it"):
        video(episode, str(tmp_path / "out.gif"))
    assert (tmp_path / "out.gif").read_text() == "an older video"
    written = video(episode, str(tmp_path / "out.gif"), overwrite=True)
    assert written.path == tmp_path / "out.gif"
    assert str(written) == f"{tmp_path / 'out.gif'}: 13 frames"
    with open(written, "rb") as file:
        assert file.read(3) == b"GIF"

    assert len(frames_of(tmp_path / "out.gif")) == 13
    assert files_in(tmp_path) == ["out.gif"]


def test_progress_is_told_frame_by_frame(jam: Jamboree, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    video(balance(jam), tmp_path / "out.gif", progress=lambda *counts: told.append(counts))

    assert told == [(frame, 13) for frame in range(1, 14)]


# -- none of a replay that differs ------------------------------------------------------------


def test_there_is_no_video_of_a_replay_that_differs(jam: Jamboree, tmp_path: Path) -> None:
    (tmp_path / "out.gif").write_text("an older video")
    episode = record(jam, gym.make("tests/Faulty-v0"))

    with pytest.raises(ReplayError, match=r"no video: .*observation.* at step 5") as caught:
        video(episode, tmp_path / "out.gif", overwrite=True)
    assert len(str(caught.value).splitlines()) == 2
    assert files_in(tmp_path) == ["out.gif"]
    assert (tmp_path / "out.gif").read_text() == "an older video"


def test_a_video_of_a_replay_that_differs_has_to_be_asked_for(
    jam: Jamboree, tmp_path: Path
) -> None:
    written = video(record(jam, gym.make("tests/Faulty-v0")), tmp_path / "out.gif", unverified=True)

    assert not written
    assert written.report.mismatch is not None
    assert written.report.mismatch.step == 5
    assert len(frames_of(tmp_path / "out.gif")) == 13


def test_a_step_that_fails_leaves_nothing(jam: Jamboree, tmp_path: Path) -> None:
    episode = record(jam, gym.make("tests/Rendering-v0"))
    gym.registry.pop("tests/Rendering-v0")
    gym.register("tests/Rendering-v0", entry_point=FailingRenderingEnv)

    with pytest.raises(ReplayError, match="step 1 fails in the second run"):
        video(episode, tmp_path / "out.mp4")
    assert files_in(tmp_path) == []


class FailingRenderingEnv(FailingEnv, RenderingEnv):
    """Fails in its second step."""


# -- not possible -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Counting", r"does not render 'rgb_array': its render modes are \[\]"),
        ("Text", "frame 0 is no picture"),
        ("Shrinking", "frame 1 is .* a video has one size"),
    ],
)
def test_an_environment_that_renders_no_pictures_is_named(
    jam: Jamboree, tmp_path: Path, name: str, message: str
) -> None:
    episode = record(jam, gym.make(f"tests/{name}-v0"), steps=3)

    with pytest.raises(ReplayError, match=message):
        video(episode, tmp_path / "out.gif")
    assert files_in(tmp_path) == []


def test_an_environment_that_cannot_be_rendered_here_is_named(
    jam: Jamboree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    episode = record(jam, gym.make("CartPole-v1"))
    monkeypatch.setitem(sys.modules, "pygame", None)

    with pytest.raises(ReplayError, match=r"cannot be rendered here: .*pygame is not installed"):
        video(episode, tmp_path / "out.gif")
    assert files_in(tmp_path) == []


WITHOUT_GL = """
import sys
from jamboree_gym import Jamboree
from jamboree_gym.errors import ExportError, ReplayError
from jamboree_gym.replay import video

url, namespace, episode_id, path = sys.argv[1:]
with Jamboree(url, namespace=namespace) as jam:
    try:
        video(jam.episode(episode_id), path)
    except ReplayError as error:
        print(error)
"""


@pytest.mark.long
def test_mujoco_without_opengl_says_what_to_install(
    jam: Jamboree, valkey: Any, tmp_path: Path
) -> None:
    episode = record(jam, gym.make("Hopper-v5"))
    jam.flush()
    arguments = (
        valkey.url,
        jam._connection.keyspace.namespace,
        episode.id,
        str(tmp_path / "out.gif"),
    )
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_GL, *arguments],
        env={**os.environ, "MUJOCO_GL": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("the environment cannot be rendered here: ")
    assert "apt-get install libegl1" in done.stdout
    assert len(done.stdout.splitlines()) == 2
    assert files_in(tmp_path) == []


def test_a_missing_extra_names_the_pip_command(
    jam: Jamboree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)

    with pytest.raises(MissingExtra, match=r"pip install 'jamboree-gym\[video\]'"):
        video(balance(jam), tmp_path / "out.mp4")


@pytest.mark.parametrize("name", ["out.avi", "out", "out.mp4.part"])
def test_an_unknown_suffix_is_named(jam: Jamboree, tmp_path: Path, name: str) -> None:
    with pytest.raises(ReplayError, match=r"neither \.mp4 nor \.gif"):
        video(balance(jam), tmp_path / name)


@pytest.mark.parametrize("fps", [0, -1, 1e-4, 1e9])
def test_a_pace_that_is_none_is_named(jam: Jamboree, tmp_path: Path, fps: float) -> None:
    with pytest.raises(ReplayError, match="choose frames per second"):
        video(balance(jam), tmp_path / "out.mp4", fps=fps)
    assert files_in(tmp_path) == []


def test_a_directory_that_is_not_there_is_named(jam: Jamboree, tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match=r"none/out\.mp4 cannot be written: .*No such file"):
        video(balance(jam), tmp_path / "none" / "out.mp4")


FULL_DISK = """
import resource, sys
import jamboree_envs
from jamboree_gym import Jamboree
from jamboree_gym.errors import ExportError, ReplayError
from jamboree_gym.replay import video

url, namespace, episode_id, path = sys.argv[1:]
with Jamboree(url, namespace=namespace) as jam:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    try:
        video(jam.episode(episode_id), path)
    except ReplayError as error:
        print(error)
"""


@pytest.mark.parametrize("suffix", [".mp4", pytest.param(".gif", marks=pytest.mark.long)])
def test_a_disk_that_is_full_is_named_and_nothing_is_left(
    jam: Jamboree, valkey: Any, tmp_path: Path, suffix: str
) -> None:
    """A limit on the size of files stands for it: it fails in the same calls."""
    path = tmp_path / f"out{suffix}"
    episode = balance(jam)
    jam.flush()
    done = subprocess.run(
        [
            *(sys.executable, "-W", "error", "-c", FULL_DISK),
            *(valkey.url, jam._connection.keyspace.namespace, episode.id, str(path)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr
    assert "cannot be written: File too large" in done.stdout
    assert done.stderr == ""
    assert files_in(tmp_path) == []
