"""All steps of many episodes as one table, one frame, one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pyarrow as pa
import pytest
from gymnasium import spaces
from recorded_envs import ACTION, CountingEnv, DiscreteEnv, ScriptedEnv, play
from stored import at

from jamboree_gym import Jamboree
from jamboree_gym.errors import ColumnConflict, DecodeError, EpisodeNotFound, ExportError
from jamboree_gym.reading import bulk_read as blocks_module
from jamboree_gym.reading.episode import Episode
from jamboree_gym.tables.columns import to_columns


def record(jam: Jamboree, env: gym.Env[Any, Any], actions: list[Any], **options: Any) -> str:
    """Record one episode; its id."""
    recorded = jam.record(env, **options)
    play(recorded, actions)
    recorded.close()
    return recorded.episode_id


def counted(jam: Jamboree, steps: int, **options: Any) -> str:
    return record(jam, CountingEnv(length=10**9), [ACTION] * steps, **options)


def scripted(jam: Jamboree, values: list[Any], **options: Any) -> str:
    return record(jam, ScriptedEnv(observations=values), [ACTION] * (len(values) - 1), **options)


def told(jam: Jamboree, infos: list[dict[str, Any]]) -> str:
    return record(jam, ScriptedEnv(infos=infos), [ACTION] * (len(infos) - 1))


def test_parts_whose_columns_would_have_one_name_have_a_column_each(jam: Jamboree) -> None:
    values = [
        {"a": np.array([k, k + 10.0]), "a_0": np.float64(k + 20), "b": {"c": k + 30}, "b_c": k + 40}
        for k in range(3)
    ]
    id = scripted(jam, values)

    table = jam.episode(id).table()
    found = {name: table[name].to_pylist() for name in table.column_names if "observ" in name}
    assert found == {
        'observation["a"]_0': [0.0, 1.0],
        'observation["a"]_1': [10.0, 11.0],
        'observation["a_0"]': [20.0, 21.0],
        'observation["b"]["c"]': [30, 31],
        'observation["b_c"]': [40, 41],
    }
    assert jam.episodes().table().to_pydict()['observation["a_0"]'] == [20.0, 21.0]
    assert jam.episode(id).find("column('observation[\"a\"]_1') > 10").tolist() == [1]


def one_by_one(jam: Jamboree) -> dict[str, list[Any]]:
    """The table as it would be, were each episode read by itself and put below the others."""
    columns: dict[str, list[Any]] = {"episode_id": []}
    for episode in jam.episodes():
        found = to_columns(episode.steps())
        rows = len(found["index"])
        before = len(columns["episode_id"])
        for name in found.keys() - columns.keys():
            columns[name] = [None] * before
        columns["episode_id"] += [episode.id] * rows
        for name, values in columns.items():
            if name != "episode_id":
                values += found[name].tolist() if name in found else [None] * rows
    return columns


def assert_as_one_by_one(jam: Jamboree) -> None:
    assert jam.episodes().table().to_pydict() == one_by_one(jam)


@pytest.fixture(params=["at once", "a trip for each", "in parts"])
def trips(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes read all at once, one by one, and longer ones in parts."""
    if request.param == "a trip for each":
        monkeypatch.setattr(blocks_module, "MAX_EPISODES", 1)
    if request.param == "in parts":
        monkeypatch.setattr(blocks_module, "MAX_BYTES", 1000)


# -- what is in it ----------------------------------------------------------------------------


@pytest.mark.usefixtures("trips")
def test_a_table_has_the_steps_of_each_episode_one_below_the_other(jam: Jamboree) -> None:
    ids = [counted(jam, steps) for steps in (3, 1, 0, 700, 5)]

    table = jam.episodes().table()

    assert_as_one_by_one(jam)
    assert table.column_names == [
        *("episode_id", "index", "timestamp", "reward", "terminated", "truncated"),
        *("action_0", "action_1", "observation_0", "observation_1"),
    ]
    assert (
        table["episode_id"].to_pylist() == [ids[0]] * 3 + ids[1:2] + [ids[3]] * 700 + [ids[4]] * 5
    )
    assert table["index"].to_pylist() == [*range(3), 0, *range(700), *range(5)]
    assert table["observation_0"].to_pylist() == table["index"].to_pylist()
    assert table["reward"].to_pylist() == [index + 1 for index in table["index"].to_pylist()]
    assert table.schema.field("observation_0").type == pa.float32()


@pytest.mark.usefixtures("trips")
def test_ends_are_at_the_ends(jam: Jamboree) -> None:
    for length, ending in ((9, "terminated"), (8, "truncated"), (1, "terminated")):
        record(jam, CountingEnv(length, ending), [ACTION] * length)

    table = jam.episodes().table()

    assert np.flatnonzero(table["terminated"]).tolist() == [8, 17]
    assert np.flatnonzero(table["truncated"]).tolist() == [16]


@pytest.mark.usefixtures("trips")
def test_kinds_that_take_turns_stay_in_their_order(jam: Jamboree) -> None:
    for steps in (2, 3):
        record(jam, DiscreteEnv(), [1] * steps)
        counted(jam, steps)

    assert_as_one_by_one(jam)
    assert jam.episodes().order_by("-steps").table()["index"].to_pylist() == [
        *(0, 1, 2) * 2,
        *(0, 1) * 2,
    ]


@pytest.mark.parametrize(
    "values",
    [
        [{"a": np.ones((2, 2)) * i, "b": (np.uint8(i), i % 2 == 0)} for i in range(12)],
        [np.array([i % 3 == 0, True, False]) for i in range(12)],
        [np.full((9, 9), i, np.uint8) for i in range(12)],
        [np.array([i], ">i4") for i in range(12)],
        [f"step {i}" for i in range(12)],
        [np.zeros(0) for _ in range(12)],
    ],
    ids=["nested", "bits", "images", "big endian", "texts", "empty"],
)
@pytest.mark.usefixtures("trips")
def test_values_of_all_kinds(jam: Jamboree, values: list[Any]) -> None:
    for count in (12, 2, 5):
        scripted(jam, values[:count])

    assert_as_one_by_one(jam)


def test_images_are_lists_of_lists(jam: Jamboree) -> None:
    scripted(jam, [np.full((9, 10), i, np.uint8) for i in range(3)])

    kind = jam.episodes().table().schema.field("observation").type

    assert kind == pa.list_(pa.list_(pa.uint8(), 10), 9)


@pytest.mark.usefixtures("trips")
def test_an_episode_that_changes_its_layout_is_read_as_by_itself(jam: Jamboree) -> None:
    counted(jam, 2)
    scripted(jam, [np.full(2, i, np.float32 if i < 3 else np.float64) for i in range(6)])
    counted(jam, 3)

    assert_as_one_by_one(jam)


@pytest.mark.usefixtures("trips")
def test_infos_are_columns_and_missing_where_an_episode_has_none(jam: Jamboree) -> None:
    told(jam, [{"a": 1}, {"a": 2, "b": "x"}, {}])
    counted(jam, 2)
    told(jam, [{}, {"a": 5, "c": {"d": 0.5}}, {"c": {"d": None}}])

    table = jam.episodes().table()

    assert table["info_a"].to_pylist() == [2, None, None, None, 5, None]
    assert table["info_b"].to_pylist() == ["x"] + [None] * 5
    assert table["info_c.d"].to_pylist() == [None] * 4 + [0.5, None]
    assert table.schema.field("info_a").type == pa.int64()


@pytest.mark.usefixtures("trips")
def test_what_the_agent_said_is_a_column(jam: Jamboree) -> None:
    counted(jam, 2)
    env = jam.record(CountingEnv())
    env.reset()
    env.step(ACTION)
    env.annotate(value=0.5, version=3)
    env.step(ACTION)
    env.close()

    table = jam.episodes().table()

    assert table["annotation_version"].to_pylist() == [None, None, None, 3]
    assert table["annotation_value"].to_pylist()[3] == 0.5


def test_the_steps_of_a_running_episode_are_there_too(jam: Jamboree) -> None:
    env = jam.record(CountingEnv(length=100))
    play(env, [ACTION] * 3)
    counted(jam, 1)

    assert jam.episodes().table()["index"].to_pylist() == [0, 1, 2, 0]


def test_an_episode_has_a_table_of_its_own(jam: Jamboree) -> None:
    episode = jam.episode(told(jam, [{}, {"a": 1}, {}]))

    table = episode.table()

    assert table.to_pydict() == {
        name: column.tolist() for name, column in to_columns(episode.steps()).items()
    }


def test_the_table_of_no_episodes_has_the_columns_that_any_has(jam: Jamboree) -> None:
    table = jam.episodes().table()

    assert table.num_rows == 0
    assert table.column_names[:3] == ["episode_id", "index", "timestamp"]


# -- columns of several types -----------------------------------------------------------------


@pytest.mark.usefixtures("trips")
def test_numbers_of_two_types_become_the_one_that_holds_both(jam: Jamboree) -> None:
    told(jam, [{}, {"a": 1, "flag": True}])
    told(jam, [{}, {"a": 0.5, "flag": 2}])
    scripted(jam, [np.full(2, 0.1), np.zeros(2)])

    table = jam.episodes().table()

    assert table["info_a"].to_pylist() == [1.0, 0.5, None]
    assert table["info_flag"].to_pylist() == [1, 2, None]
    assert table["observation_0"].to_pylist() == [0.0, 0.0, 0.1]


@pytest.mark.parametrize("other", ["one", [1], 0.5, {"b": 1}, np.zeros(1)], ids=str)
@pytest.mark.usefixtures("trips")
def test_an_info_that_no_one_column_holds_is_none(jam: Jamboree, other: Any) -> None:
    told(jam, [{}, {"a": 2**53 + 1, "b": 1}])
    told(jam, [{}, {"a": other, "b": 2}])

    table = jam.episodes().table()

    assert "info_a" not in table.column_names
    assert table["info_b"].to_pylist() == [1, 2]


@pytest.mark.parametrize("second", ["text", np.int64(0), np.zeros((9, 9))], ids=type)
@pytest.mark.usefixtures("trips")
def test_observations_that_no_one_column_holds_are_an_error_that_names_both_episodes(
    jam: Jamboree, tmp_path: Path, second: Any
) -> None:
    one = scripted(jam, [np.full((9, 10), 1.0)] * 2)
    other = scripted(jam, [second] * 2)

    with pytest.raises(ColumnConflict, match=f"'observation'.*{one}.*{other}.*env_id="):
        jam.episodes().table()
    with pytest.raises(ColumnConflict, match=f"'observation'.*{one}.*{other}"):
        jam.episodes().to_arrow(tmp_path / "steps.arrow")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("trips")
def test_an_episode_without_steps_conflicts_with_none(jam: Jamboree, tmp_path: Path) -> None:
    scripted(jam, ["text"])
    counted(jam, 2)
    scripted(jam, [np.zeros((9, 9))])

    assert jam.episodes().table()["observation_0"].to_pylist() == [0, 1]
    jam.episodes().to_arrow(tmp_path / "steps.arrow")
    assert read(tmp_path / "steps.arrow").equals(jam.episodes().table())


# -- files and frames -------------------------------------------------------------------------


def read(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


@pytest.mark.usefixtures("trips")
def test_a_file_holds_the_table(jam: Jamboree, tmp_path: Path) -> None:
    for steps in (5, 300, 1):
        counted(jam, steps)
    jam.episodes().to_arrow(tmp_path / "steps.arrow")

    assert read(tmp_path / "steps.arrow").equals(jam.episodes().table())
    assert [path.name for path in tmp_path.iterdir()] == ["steps.arrow"]


@pytest.mark.usefixtures("trips")
def test_a_file_of_episodes_that_differ_holds_the_table(jam: Jamboree, tmp_path: Path) -> None:
    told(jam, [{}, {"a": 1, "b": "x", "d": 2**53 + 1}])
    counted(jam, 3)
    told(jam, [{}, {"a": 0.5, "c": 1, "d": 0.5}])
    told(jam, [{}, {"b": [1]}])
    record(jam, DiscreteEnv(), [1])
    jam.episodes().to_arrow(tmp_path / "steps.arrow")

    table = jam.episodes().table()
    assert read(tmp_path / "steps.arrow").equals(table)
    assert [name for name in table.column_names if name.startswith("info_")] == ["info_a", "info_c"]
    assert [path.name for path in tmp_path.iterdir()] == ["steps.arrow"]


def test_a_file_of_no_episodes_is_an_empty_table(jam: Jamboree, tmp_path: Path) -> None:
    jam.episodes().to_arrow(str(tmp_path / "none.arrow"))

    assert read(tmp_path / "none.arrow").equals(jam.episodes().table())


def test_a_file_that_is_there_is_replaced_only_if_that_is_asked_for(
    jam: Jamboree, tmp_path: Path
) -> None:
    path = tmp_path / "steps.arrow"
    counted(jam, 3)
    assert jam.episodes().to_arrow(path) == path
    counted(jam, 3)

    with pytest.raises(ExportError, match=r"steps.arrow is there already: overwrite=True"):
        jam.episodes().to_arrow(path)
    assert read(path).num_rows == 3
    assert read(jam.episodes().to_arrow(path, overwrite=True)).num_rows == 6
    assert jam.episodes().to_parquet(tmp_path / "steps") == tmp_path / "steps"


def test_a_file_that_could_not_be_written_leaves_the_one_before(
    jam: Jamboree, tmp_path: Path
) -> None:
    path = tmp_path / "steps.arrow"
    counted(jam, 3)
    jam.episodes().to_arrow(path)
    other = counted(jam, 3)
    jam.flush()
    jam.redis.delete(at(jam, jam._connection.keyspace.episode(other)))

    with pytest.raises(EpisodeNotFound, match=other):
        jam.episodes().to_arrow(path, overwrite=True)
    assert read(path).num_rows == 3
    assert [file.name for file in tmp_path.iterdir()] == ["steps.arrow"]


@pytest.mark.vaex
def test_vaex_opens_the_file_and_finds_what_the_frame_has(jam: Jamboree, tmp_path: Path) -> None:
    import vaex

    told(jam, [{}, {"a": 1, "b": "x"}, {"a": 2}])
    counted(jam, 3)
    jam.episodes().to_arrow(tmp_path / "steps.arrow")

    opened, frame = vaex.open(str(tmp_path / "steps.arrow")), jam.episodes().frame()

    assert opened.get_column_names() == frame.get_column_names()
    for name in frame.get_column_names():
        assert opened[name].tolist() == frame[name].tolist()
    assert opened.sum("reward") == frame.sum("reward") == 3 + 6
    opened.close()


@pytest.mark.vaex
def test_a_frame_of_images_has_one_column_of_arrays(jam: Jamboree) -> None:
    for _ in range(2):
        scripted(jam, [np.full((9, 10), i, np.uint8) for i in range(3)])

    frame = jam.episodes().frame()

    assert frame["observation"].shape == (4, 9, 10)
    assert frame["observation"].tolist()[3][8] == [1] * 10


# -- progress, round trips, damage ------------------------------------------------------------


@pytest.mark.usefixtures("trips")
def test_progress_is_told_up_to_all(jam: Jamboree) -> None:
    for steps in (3, 1, 50):
        counted(jam, steps)
    seen: list[tuple[int, int]] = []

    jam.episodes().table(progress=lambda done, total: seen.append((done, total)))

    assert seen == sorted(seen)
    assert seen[-1] == (3, 3)


def test_progress_is_shown_where_it_is_asked_for(
    jam: Jamboree, capsys: pytest.CaptureFixture[str]
) -> None:
    counted(jam, 1)
    jam.episodes().table()
    assert capsys.readouterr().err == ""

    jam.episodes().table(progress=True)
    assert capsys.readouterr().err == "\r1 of 1 episodes read\n"


def test_many_short_episodes_are_one_round_trip(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    for steps in range(30):
        counted(jam, steps, run="many")
    trips: list[int] = []
    whole = jam._connection.store.whole
    monkeypatch.setattr(
        jam._connection.store, "whole", lambda keys: trips.append(len(keys)) or whole(keys)
    )

    assert jam.episodes().table().num_rows == sum(range(30))
    assert trips == [30]


def test_plain_episodes_are_decoded_together(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted(jam, 600)
    told(jam, [{}, {"a": 1}, {}])
    monkeypatch.delattr(Episode, "_rows")  # which would read one by itself

    assert jam.episodes().table()["info_a"].to_pylist()[600:] == [1, None]


@pytest.mark.parametrize("place", [-3, -40, 20, 30], ids=["rest", "column", "writer", "time"])
def test_a_damaged_episode_among_many_is_named(jam: Jamboree, place: int) -> None:
    ids = [counted(jam, 3) for _ in range(5)]
    jam.flush()
    key = jam._connection.keyspace.episode(ids[3])
    frame = bytearray(jam.redis.lindex(at(jam, key), 1))
    frame[place] ^= 1
    jam.redis.lset(at(jam, key), 1, bytes(frame))

    with pytest.raises(DecodeError, match=f"{ids[3]}.*checksum"):
        jam.episodes().table()


def test_an_episode_that_is_cut_off_among_many_is_named(jam: Jamboree) -> None:
    ids = [counted(jam, 3) for _ in range(5)]
    jam.flush()
    key = jam._connection.keyspace.episode(ids[3])
    jam.redis.lset(at(jam, key), 1, jam.redis.lindex(at(jam, key), 1)[:50])

    with pytest.raises(DecodeError, match=ids[3]):
        jam.episodes().table()


def test_an_episode_that_lacks_a_frame_is_named(jam: Jamboree) -> None:
    ids = [counted(jam, 600) for _ in range(3)]
    jam.flush()
    jam.redis.rpop(at(jam, jam._connection.keyspace.episode(ids[1])))

    with pytest.raises(DecodeError, match=f"{ids[1]}.*missing"):
        jam.episodes().table()


class SpacedEnv(CountingEnv):
    """Observes sequences of numbers, or texts, of which the space says nothing exact."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.observation_space = spaces.Sequence(spaces.Discrete(9))
        self.value = value

    def observe(self) -> Any:
        return self.value


@pytest.mark.usefixtures("trips")
def test_values_without_shape_are_a_column_only_if_all_are_texts(jam: Jamboree) -> None:
    record(jam, SpacedEnv("text"), [ACTION])
    assert jam.episodes().table()["observation"].to_pylist() == ["text"]

    record(jam, SpacedEnv((1, 2)), [ACTION])
    assert "observation" not in jam.episodes().table().column_names
