"""Many episodes read at once are what each of them is alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from recorded_envs import CountingEnv, DiscreteEnv, play
from stored import at

from jamboree_gym import Jamboree
from jamboree_gym.errors import DecodeError
from jamboree_gym.reading.bulk_read import read_blocks, whole_episodes


class Telling(CountingEnv):
    """Says something in every second row."""

    def info(self) -> dict[str, Any]:
        return {"count": self.count} if self.count % 2 else {}


class Texting(CountingEnv):
    """Observes text."""

    def __init__(self, length: int = 3) -> None:
        super().__init__(length)
        self.observation_space = spaces.Text(9)

    def observe(self) -> Any:
        return "x" * self.count


def record(jam: Jamboree, env: Any, actions: list[Any]) -> str:
    recorded = jam.record(env, run="run")
    play(recorded, actions)
    recorded.close()
    return str(recorded.episode_id)


ARRAY = np.zeros(2, np.float32)
KINDS: dict[str, list[tuple[Any, list[Any]]]] = {
    "plain": [(CountingEnv(n), [ARRAY] * n) for n in (3, 3, 5)],
    "infos": [(Telling(n), [ARRAY] * n) for n in (3, 4)],
    "texts": [(Texting(n), [ARRAY] * n) for n in (3, 4)],
    "long": [(CountingEnv(600), [ARRAY] * 600), (CountingEnv(3), [ARRAY] * 3)],
    "Python's numbers and NumPy's": [
        (DiscreteEnv(4), [1, np.int64(1), 2, np.int64(2)]),
        (DiscreteEnv(4), [np.int64(1), 1, np.int64(0), 1]),
    ],
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_episodes_of_a_block_are_what_each_of_them_is_alone(jam: Jamboree, kind: Any) -> None:
    ids = {record(jam, env, actions): actions for env, actions in kind}
    jam.flush()

    listed = [jam.episode(id).summary for id in ids]
    read: dict[str, Any] = {}
    for _, blocks in read_blocks(jam._connection, listed):
        read |= {id: rows for block in blocks for id, rows in block.episodes()}
    whole = [one().rows for one in whole_episodes(jam._connection, list(ids))]

    for id, rows in [*read.items(), *zip(ids, whole, strict=True)]:
        data = jam.episode(id).data()
        assert (rows.observations == data.observations).all()
        assert rows.timestamps[1:].tobytes() == data.timestamps.tobytes()
        assert list(rows.infos) == list(data.infos)
        actions = [rows.action(n) for n in range(1, len(rows))]
        assert list(map(type, actions)) == list(map(type, ids[id]))
    assert read.keys() == ids.keys()


def test_a_block_has_its_episodes_in_the_order_in_which_they_were_asked_for(jam: Jamboree) -> None:
    ids = [record(jam, Telling(n), [ARRAY] * n) for n in (5, 3)]
    ids += [record(jam, CountingEnv(n), [ARRAY] * n) for n in (5, 3, 600, 5, 4, 3)]
    jam.flush()

    listed = [jam.episode(id).summary for id in ids]
    ((_, (block,)),) = read_blocks(jam._connection, listed)
    steps = block.transitions()

    assert list(block.ids) == ids
    assert block.steps.tolist() == [one.steps for one in listed]
    alone = [jam.episode(id).steps() for id in ids]
    for name in ("indices", "observations", "next_observations", "timestamps", "truncations"):
        expected = np.concatenate([getattr(one, name) for one in alone])
        assert getattr(steps, name).tobytes() == expected.tobytes()
        assert getattr(steps, name).dtype == expected.dtype
    assert list(steps.infos) == [info for one in alone for info in one.infos]
    table = jam.episodes().table()
    assert table["episode_id"].to_pylist() == [one.id for one in listed for _ in range(one.steps)]
    assert table["timestamp"].to_numpy().tobytes() == steps.timestamps.tobytes()


DAMAGES = {
    "magic": 0,
    "count": 5,
    "start": 9,
    "checksum": 41,
    "schema": 45,
    "infos": 53,
    "rows": 80,
}


@pytest.mark.parametrize("place", DAMAGES.values(), ids=DAMAGES)
def test_damage_in_one_of_many_like_it_is_named_as_when_it_is_read_alone(
    jam: Jamboree, place: int
) -> None:
    ids = [record(jam, CountingEnv(3), [ARRAY] * 3) for _ in range(4)]
    jam.flush()
    key = at(jam, jam._connection.keyspace.episode(ids[2]))
    batch = bytearray(jam.redis.lindex(key, 1) or b"")
    batch[place] ^= 1
    jam.redis.lset(key, 1, bytes(batch))

    with pytest.raises(DecodeError) as alone:
        jam.episode(ids[2]).steps()
    with pytest.raises(DecodeError) as together:
        jam.episodes().table()

    assert str(together.value) == str(alone.value)
    wholes = whole_episodes(jam._connection, ids)
    assert [wholes[n]().id for n in (0, 1, 3)] == [ids[n] for n in (0, 1, 3)]
    with pytest.raises(DecodeError) as whole:
        wholes[2]()
    assert str(whole.value) == str(alone.value)
