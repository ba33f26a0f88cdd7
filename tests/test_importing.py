"""Episodes from arrays: what an importer needs to know, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from jamboree_gym import Jamboree
from jamboree_gym.arrays.step_schema import StepSchema
from jamboree_gym.errors import EpisodeInUse, InvalidRecord
from jamboree_gym.keys import digest
from jamboree_gym.recording.importer import (
    TICK_S,
    EpisodeImporter,
    NewEpisode,
    episode_id_of,
    layout_of_arrays,
)
from jamboree_gym.records import EpisodeOrigin, EpisodeSummary

SPACE = spaces.Dict(a=spaces.Box(-1, 1, (2,), np.float64), t=spaces.Text(3))
PROVENANCE = b"{}"
STEPS = 3


def new_episode(jam: Jamboree, **changes: Any) -> NewEpisode:
    texts = np.empty(STEPS + 1, object)
    texts[:] = ["a", "b", "", "é"]
    observations = {"a": np.arange(8.0).reshape(4, 2), "t": texts}
    actions = np.array([0, 1, 2])
    schema = StepSchema(
        layout_of_arrays(observations, SPACE), layout_of_arrays(actions, spaces.Discrete(3))
    )
    summary = EpisodeSummary(
        episode_id_of("test", 1), "", "run", "abandoned", 0, 0.0, 100.0, 0.0, None, {}, None,
        jam._connection.writer_name,
    )  # fmt: skip
    episode = NewEpisode(
        summary,
        EpisodeOrigin(None, None, None, digest(PROVENANCE)),
        {digest(PROVENANCE): PROVENANCE},
        [(0, schema)],
        observations,
        actions,
        [1.0, 2.0, 0.5],
        [False] * STEPS,
        [False] * STEPS,
    )
    return replace(episode, **changes)


def bring(jam: Jamboree, episode: NewEpisode) -> None:
    with EpisodeImporter(jam._connection) as importer:
        importer.add(episode)


def test_it_is_there_as_if_recorded(jam: Jamboree) -> None:
    episode = new_episode(jam, infos=[{}, {"n": 1}, {}, {"n": None}])

    bring(jam, episode)

    (summary,) = jam.episodes(run="run").summaries()
    assert (summary.status, summary.steps, summary.episode_return) == ("abandoned", 3, 3.5)
    data = jam.episode(summary.id).data()
    assert data.observations["a"].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert data.observations["t"].tolist() == ["a", "b", "", "é"]
    assert [step.action for step in jam.episode(summary.id).steps()] == [0, 1, 2]
    assert list(data.infos) == [{}, {"n": 1}, {}, {"n": None}]
    assert data.timestamps.tolist() == pytest.approx(
        [100 + n * TICK_S for n in (1, 2, 3)], abs=1e-9
    )
    jam.backup.flush()
    assert jam.backup.verify()


def test_twice_is_once(jam: Jamboree) -> None:
    for _ in range(2):
        bring(jam, new_episode(jam))

    assert len(jam.episodes().first()) == 3
    with EpisodeImporter(jam._connection) as importer:
        found = importer.stored([episode_id_of("test", 1), episode_id_of("test", 2)])
    assert [one.steps for one in found.values()] == [3]


def test_another_episode_of_the_same_id_is_an_error(jam: Jamboree) -> None:
    bring(jam, new_episode(jam))

    with pytest.raises(EpisodeInUse, match="is there already, with other steps"):
        bring(jam, new_episode(jam, rewards=[9.0, 9.0, 9.0]))

    assert jam.episodes().first().data().rewards.tolist() == [1.0, 2.0, 0.5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"terminations": [False]}, "has columns of .* rows"),
        ({"infos": [{}]}, "has columns of .* rows"),
        ({"timestamps": [101.0, 101.0, 102.0]}, "has times that do not ascend"),
        ({"timestamps": [99.0, 101.0, 102.0]}, "has times that do not ascend"),
        ({"actions": np.zeros((3, 2))}, "its actions cannot be kept: rows of float64"),
        ({"observations": {"a": np.zeros((4, 2))}}, "its observations cannot be kept"),
    ],
)
def test_arrays_that_do_not_fit_are_named(
    changes: dict[str, Any], message: str, jam: Jamboree
) -> None:
    with pytest.raises(InvalidRecord, match=message):
        bring(jam, new_episode(jam, **changes))

    assert len(jam.episodes()) == 0
