"""Flags of episodes: kept, deleted with the episode, and backed up."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import pytest
from stored import keys_like

from jamboree_gym import Jamboree
from jamboree_gym.errors import EpisodeNotFound, InvalidArgument
from jamboree_gym.reading.episode import Episode


@pytest.fixture
def episode(jam: Jamboree) -> Episode:
    env = jam.record(gym.make("CartPole-v1"), run="flagged")
    env.reset(seed=1)
    env.step(0)
    env.close()
    return jam.episodes(run="flagged").last()


def test_flags_come_back_in_their_order(episode: Episode, jam: Jamboree) -> None:
    assert episode.flags() == []
    episode.flag("falls at once")
    episode.flag("here", step=0)
    assert [str(one) for one in episode.flags()] == ["falls at once", "step 0: here"]
    assert jam.run("flagged").flagged() == [episode]


def test_another_process_sees_a_flag_at_once(
    episode: Episode, open_jamboree: Callable[..., Jamboree]
) -> None:
    episode.flag("odd")
    other = open_jamboree(backup=False)
    assert [one.note for one in other.episode(episode.id).flags()] == ["odd"]
    assert other.run("flagged").flagged() == [other.episode(episode.id)]


def test_flags_that_are_deleted_are_gone(episode: Episode, jam: Jamboree) -> None:
    episode.flag("odd")
    episode.unflag()
    assert episode.flags() == []
    assert jam.run("flagged").flagged() == []
    episode.flag("again")
    assert [one.note for one in episode.flags()] == ["again"]
    assert jam.run("flagged").flagged() == [episode]


def test_flags_are_deleted_with_their_episode(episode: Episode, jam: Jamboree) -> None:
    episode.flag("a secret note")
    episode.delete()
    stored = [jam.redis.dump(key) or b"" for key in keys_like(jam.redis, "*flag:*")]
    assert not any(b"a secret note" in one for one in stored)
    assert jam.run("flagged", wait=True).flagged() == []


def test_flags_are_restored_from_the_backup(episode: Episode, jam: Jamboree) -> None:
    episode.flag("odd", step=0)
    jam.backup.flush()
    assert jam.backup.verify()
    jam.redis.flushall()
    jam.backup.restore()
    assert [str(one) for one in jam.episode(episode.id).flags()] == ["step 0: odd"]
    assert jam.run("flagged").flagged() == [jam.episode(episode.id)]


@pytest.mark.parametrize("note", ["", "   ", "x" * 2001, "\ud800"])
def test_a_note_that_cannot_be_kept_is_refused(episode: Episode, note: str) -> None:
    with pytest.raises(InvalidArgument, match="note"):
        episode.flag(note)
    assert episode.flags() == []


def test_a_step_is_a_whole_number_from_0(episode: Episode) -> None:
    with pytest.raises(InvalidArgument, match="step"):
        episode.flag("odd", step=-1)


def test_an_episode_that_is_not_there_cannot_be_flagged(jam: Jamboree) -> None:
    with pytest.raises(EpisodeNotFound):
        jam.episode("f" * 32).flag("odd")
    assert not keys_like(jam.redis, f"*{'f' * 32}*")
