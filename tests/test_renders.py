"""Frames that an environment renders: when they are kept, and how they come back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pyarrow as pa
import pytest
from lengths import quick_and_long
from processes import wait_until
from proxy import Proxy, direct
from recorded_envs import ACTION, RenderingEnv, play
from stored import at, bytes_sent

from jamboree_gym import DBHandler, Jamboree
from jamboree_gym.errors import (
    DecodeError,
    EpisodeNotFound,
    InvalidArgument,
    InvalidRecord,
    StoreUnavailable,
)
from jamboree_gym.handlers.rendered_frames import RenderHandler
from jamboree_gym.handlers.sidecar import CODEC, compress
from jamboree_gym.reading.episode import Episode
from jamboree_gym.store.mongo import client as mongo_client

OpenJamboree = Callable[..., Jamboree]


def rendered(jam: Jamboree, record_frames: Any, steps: int = 5, **options: Any) -> Episode:
    env = jam.record(RenderingEnv(**options), record_frames=record_frames)
    play(env, [ACTION] * steps)
    return jam.episode(env.episode_id)


def steps_of(episode: Episode, *limits: int) -> list[int]:
    return [step for step, _ in episode.renders(*limits)]


# -- when they are kept -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record_frames", "expected"),
    [
        (1, [0, 1, 2, 3, 4, 5]),
        (True, [0, 1, 2, 3, 4, 5]),
        (2, [0, 2, 4]),
        (lambda step: step in (1, 5), [1, 5]),
        (lambda step: False, []),
        (None, []),
        (False, []),
    ],
    ids=["1", "True", "2", "function", "never", "None", "False"],
)
def test_frames_are_kept_of_the_steps_asked_for(
    jam: Jamboree, record_frames: Any, expected: list[int]
) -> None:
    episode = rendered(jam, record_frames)

    found = list(episode.renders())

    assert [step for step, _ in found] == expected
    assert [int(frame.reshape(-1)[:4].view(np.uint32)[0]) for _, frame in found] == expected


def test_the_last_step_of_an_episode_has_its_frame(jam: Jamboree) -> None:
    assert steps_of(rendered(jam, 1, steps=9, length=3)) == [0, 1, 2, 3]


def test_every_episode_has_its_own_frames(jam: Jamboree) -> None:
    env = jam.record(RenderingEnv(), record_frames=2)
    ids = []
    for steps in (1, 4, 2):
        play(env, [ACTION] * steps)
        ids.append(env.episode_id)

    assert [steps_of(jam.episode(id)) for id in ids] == [[0], [0, 2, 4], [0, 2]]


@pytest.mark.parametrize("seed", [7, None])
def test_rendering_leaves_the_trajectory_as_it_is(jam: Jamboree, seed: int | None) -> None:
    plain = RenderingEnv()
    recorded = jam.record(RenderingEnv(), record_frames=1)
    plain.reset(seed=3)
    recorded.reset(seed=3)

    assert repr(play(recorded, [ACTION] * 5, seed=seed)) == repr(
        play(plain, [ACTION] * 5, seed=seed)
    )
    assert recorded.np_random.bit_generator.state == plain.np_random.bit_generator.state


@pytest.mark.parametrize("render_mode", [None, "human"])
def test_an_environment_that_renders_no_arrays_is_refused(
    jam: Jamboree, render_mode: str | None
) -> None:
    with pytest.raises(InvalidArgument, match=r'make it with .*render_mode="rgb_array"'):
        jam.record(RenderingEnv(render_mode=render_mode), record_frames=10)


@pytest.mark.parametrize("record_frames", [0, -1], ids=repr)
def test_steps_that_are_not_said_clearly_are_refused(jam: Jamboree, record_frames: Any) -> None:
    with pytest.raises(InvalidArgument, match="choose k for every k-th step"):
        jam.record(RenderingEnv(), record_frames=record_frames)


def test_a_vector_environment_is_refused(jam: Jamboree) -> None:
    envs = gym.vector.SyncVectorEnv([RenderingEnv, RenderingEnv])

    with pytest.raises(InvalidArgument, match="record_frames= is for single environments"):
        jam.record(envs, record_frames=1)
    envs.close()


def test_a_frame_that_is_no_array_is_named(jam: Jamboree) -> None:
    env = RenderingEnv()
    env.render = lambda: None
    env = jam.record(env, record_frames=lambda step: step == 1)
    env.reset()

    with pytest.raises(InvalidRecord, match="returned a NoneType at step 1"):
        env.step(ACTION)
    assert len(jam.episode(env.episode_id)) == 1


# -- how they come back -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        np.arange(24, dtype=np.uint8).reshape(2, 4, 3),
        np.asfortranarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3))[::-1, ::2],
        np.array([[0.0, -0.0], [np.nan, np.inf]], np.float32),
        np.array([[True, False]]),
        np.arange(3, dtype=">u2"),
        np.zeros((0, 4, 3), np.uint8),
        np.array(7, np.uint8),
    ],
    ids=lambda frame: f"{frame.dtype} {frame.shape}",
)
def test_a_frame_comes_back_with_dtype_shape_and_bits(jam: Jamboree, frame: Any) -> None:
    handler = RenderHandler(jam)
    handler["episode"] = "e"
    handler.put(3, frame)

    ((step, back),) = handler.frames()

    assert step == 3
    assert (back.dtype, back.shape, back.tobytes()) == (frame.dtype, frame.shape, frame.tobytes())
    back[...] = 1  # belongs to the reader


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [(0, 4, [0, 3]), (3, 4, [3]), (4, 6, []), (4, 10, [6, 9]), (9, 99, [9, 12]), (13, 99, [])],
)
def test_a_range_of_steps(jam: Jamboree, start: int, stop: int, expected: list[int]) -> None:
    episode = rendered(jam, 3, steps=12)

    assert steps_of(episode, start, stop) == expected


def test_frames_are_read_as_they_are_asked_for(open_jamboree: OpenJamboree) -> None:
    jam = open_jamboree(backup=False)  # a copier would read, too
    episode = rendered(jam, 1, steps=39, shape=(400, 500, 1))
    jam.flush()
    sent_before = bytes_sent(jam)

    step, _ = next(episode.renders())

    sent = bytes_sent(jam) - sent_before
    assert step == 0
    assert sent < 1_500_000  # of 8,000,000
    assert steps_of(episode) == list(range(40))
    assert steps_of(episode, 17, 31) == list(range(17, 31))


@pytest.mark.usefixtures("prompt_writer")
def test_frames_of_a_live_episode_are_seen_by_others(open_jamboree: OpenJamboree) -> None:
    writer, reader = open_jamboree(), open_jamboree()
    env = writer.record(RenderingEnv(), record_frames=1)
    play(env, [ACTION] * 2)
    wait_until(
        lambda: reader.redis.exists(at(reader, reader._connection.keyspace.episode(env.episode_id)))
    )
    episode = reader.episode(env.episode_id)

    wait_until(lambda: steps_of(episode) == [0, 1, 2])


def test_renders_of_an_episode_that_is_not_there_say_so(jam: Jamboree) -> None:
    with pytest.raises(EpisodeNotFound):
        jam.episode("nobody").renders()


@pytest.mark.parametrize(
    "damage",
    quick_and_long(
        [{"codec": "gzip"}, {"dtype": "O"}, {"dtype": "no"}, {"shape": [2**40]}, {"shape": 3},
         {"shape": [3]}, {"shape": [-2, -2]}, {"shape": [2.0, 2]}, {"content": "x"},
         {"dtype": "(2,)u1"}, {"content": b"x"}],
        quick=[{"codec": "gzip"}, {"dtype": "O"}, {"shape": [2**40]}, {"shape": [-2, -2]},
               {"content": b"x"}],
    ),
    ids=str,
)  # fmt: skip
def test_a_record_that_is_no_frame_gives_decode_error(
    jam: Jamboree, damage: dict[str, Any]
) -> None:
    handler = RenderHandler(jam)
    handler["episode"] = "e"
    handler.put(0, np.zeros((2, 2), np.uint8))
    good = {name: handler.last()[name] for name in ("step", "shape", "dtype", "codec", "content")}
    handler.delete()
    DBHandler.save(handler, {**good, **damage})

    with pytest.raises(DecodeError, match="at index 0: not a rendered frame"):
        next(handler.frames())


def bomb(size: int, *, told: int) -> bytes:
    """A few kilobytes that zstd makes so many zeros of, and whose header tells another size."""
    content: bytes = compress(bytes(size), asbytes=True)
    assert content[6:10] == size.to_bytes(4, "little")
    return content[:6] + told.to_bytes(4, "little") + content[10:]


@pytest.mark.parametrize(
    ("size", "told", "claimed"),
    [
        (2**27 + 1, 2**27 + 1, 2**27 + 1),
        (2**25, 2**25, 2**24),
        (2**25, 2**24, 2**25),
        (2**25, 2**24, 2**24),
    ],
    ids=["above the limit", "shape says less", "header says less", "both say less"],
)
def test_a_frame_takes_no_memory_that_is_not_its_own(
    jam: Jamboree, size: int, told: int, claimed: int
) -> None:
    handler = RenderHandler(jam)
    handler["episode"] = "e"
    content = bomb(size, told=told)
    frame = {"step": 0, "shape": [claimed], "dtype": "|u1", "codec": CODEC, "content": content}
    DBHandler.save(handler, frame)
    pool, before = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        with pytest.raises(DecodeError, match="at index 0: not a rendered frame"):
            next(handler.frames())
    finally:
        pa.set_memory_pool(before)

    assert pool.max_memory() <= 2**24 + 2**16


def test_a_frame_that_could_not_be_read_again_is_refused(jam: Jamboree) -> None:
    handler = RenderHandler(jam)
    handler["episode"] = "e"
    largest = np.broadcast_to(np.uint8(0), (2**27 + 1,))

    with pytest.raises(InvalidRecord, match="step 3 has 134217729 bytes"):
        handler.put(3, largest)


# -- they go with the episode -----------------------------------------------------------------


def test_a_backup_brings_frames_back(jam: Jamboree) -> None:
    episode = rendered(jam, 1)
    before = [frame.tobytes() for _, frame in episode.renders()]
    jam.backup.flush()
    for key in jam.redis.scan_iter(f"*{jam._connection.keyspace.namespace}:*"):
        jam.redis.delete(at(jam, key))
    jam.backup.restore()

    assert [frame.tobytes() for _, frame in episode.renders()] == before


@pytest.mark.parametrize("backed_up", [False, True])
def test_an_episode_whose_frames_are_damaged_can_be_deleted(jam: Jamboree, backed_up: bool) -> None:
    episode = rendered(jam, True)
    jam.flush()
    if backed_up:
        jam.backup.flush()
    frames = jam._connection.keyspace.records("render", {"episode": episode.id})
    jam.redis.lset(at(jam, frames), 0, b"no head")

    episode.delete()

    assert not jam.redis.exists(
        at(jam, frames), at(jam, jam._connection.keyspace.episode(episode.id))
    )
    jam.backup.flush()
    assert list(jam._connection.backup_store.keys()) == []


def test_frames_that_mongodb_alone_holds_are_not_forgotten_while_it_is_away(
    open_jamboree: OpenJamboree, mongo_line: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    jam = open_jamboree(mongo_url=direct(mongo_line))
    episode = rendered(jam, True)
    jam.backup.flush()
    jam.redis.delete(at(jam, jam._connection.keyspace.records("render", {"episode": episode.id})))
    mongo_line.lose_server()
    monkeypatch.setattr(mongo_client, "CONNECT_TIMEOUT_S", 0.2)
    found = open_jamboree(mongo_url=direct(mongo_line)).episode(episode.id)

    with pytest.raises(StoreUnavailable):
        found.delete()
    assert len(found.data()) == 5

    mongo_line.find_server()
    episode.delete()
    assert list(jam._connection.backup_store.keys()) == []


@pytest.mark.parametrize("backed_up", [True, False])
def test_a_deleted_episode_takes_its_frames_along(jam: Jamboree, backed_up: bool) -> None:
    episode, other = rendered(jam, 1), rendered(jam, 1)
    if backed_up:
        jam.backup.flush()
    episode.delete()

    keys = [key.decode() for key in jam.redis.scan_iter(f"*{jam._connection.keyspace.namespace}:*")]
    assert not [key for key in keys if episode.id in key]
    assert not [key for key in list(jam._connection.backup_store.keys()) if episode.id in key]
    assert steps_of(other) == [0, 1, 2, 3, 4, 5]


def test_frames_that_only_the_backup_holds_go_with_the_episode(jam: Jamboree) -> None:
    episode = rendered(jam, 1)
    jam.backup.flush()
    jam.redis.delete(at(jam, jam._connection.keyspace.records("render", {"episode": episode.id})))
    episode.delete()

    assert list(jam._connection.backup_store.keys()) == []


def test_a_record_without_a_step_gives_decode_error(jam: Jamboree) -> None:
    handler = RenderHandler(jam)
    handler["episode"] = "e"
    DBHandler.save(handler, {"value": 1})

    with pytest.raises(DecodeError, match="at index 0: no record of a step"):
        list(handler.frames(1))
