"""Texts that cannot be stored, and odd ones that can: refused by the call that brings them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import Server
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lengths import examples
from processes import NoteHandler
from recorded_envs import ACTION, CountingEnv
from warm import run_warm

from jamboree_gym import DBHandler, Jamboree
from jamboree_gym.arrays.layout import NOTHING, Leaf
from jamboree_gym.arrays.step_schema import StepSchema
from jamboree_gym.arrays.unicode_text import is_unicode
from jamboree_gym.errors import InvalidArgument, InvalidRecord, JamboreeError, UnsupportedSpace
from jamboree_gym.recording.importer import EpisodeImporter, NewEpisode
from jamboree_gym.records import EpisodeOrigin, EpisodeSummary
from jamboree_gym.replay import fork
from jamboree_gym.runs.metrics import MetricHandler

SURROGATE = "caf\udce9"
TEXTS = [SURROGATE, "\ud800", "a\0b", "", "x" * 70_000, "שלום", "🤖\u200d", "a:b/{c}%", "\n"]


def played(env: Any, **reset: Any) -> str:
    """Id of an episode of one step."""
    env.reset(**reset)
    env.step(ACTION)
    return str(env.episode_id)


def by_run(jam: Jamboree, text: str) -> None:
    id = played(jam.record(CountingEnv(), run=text))
    assert jam.episodes(run=text).ids()[-1:] == [id]


def by_vector_run(jam: Jamboree, text: str) -> None:
    envs = jam.record(gym.vector.SyncVectorEnv([CountingEnv]), run=text)
    envs.reset()
    assert jam.episode(envs.episode_ids[0]).summary.run == text


def by_tag(jam: Jamboree, text: str) -> None:
    id = played(jam.record(CountingEnv(), tags={text: text}))
    assert jam.episode(id).summary.tags == {text: text}
    assert jam.episodes(tags={text: text}).ids()[-1:] == [id]


def by_namespace(jam: Jamboree, text: str) -> None:
    url = jam._connection.redis_url
    with Jamboree(url, namespace=text + jam._connection.keyspace.namespace) as other:
        assert len(other.episode(played(other.record(CountingEnv()))).data()) == 1


def by_entity(jam: Jamboree, text: str) -> None:
    handler = NoteHandler(jam, text)
    handler.entity = "note" + text
    handler.save({"n": 1})
    assert handler.many(9)[-1]["n"] == 1


def by_required_name(jam: Jamboree, text: str) -> None:
    handler = DBHandler(jam)
    handler.entity, handler.required = "odd", {text: str}
    handler[text] = "a"
    handler.save({"n": 1})
    assert handler.many(9)[-1]["n"] == 1


def by_field(jam: Jamboree, text: str) -> None:
    handler = NoteHandler(jam, "fields")
    handler.save({text: [text]})
    assert handler.many(1)[0][text] == [text]


class InfoEnv(CountingEnv):
    """Tells a text."""

    text = ""

    def info(self) -> dict[str, Any]:
        return {self.text: {self.text: [self.text]}, "count": self.count}


def by_info(jam: Jamboree, text: str) -> None:
    inner = InfoEnv()
    inner.text = text
    id = played(jam.record(inner))
    infos = jam.episode(id).data().infos
    assert infos[-1]["count"] == 1
    assert len(infos[-1]) == 2


def by_strict_info(jam: Jamboree, text: str) -> None:
    inner = InfoEnv()
    inner.text = text
    id = played(jam.record(inner, strict_infos=True))
    assert jam.episode(id).data().infos[-1][text] == {text: [text]}


def by_record_infos(jam: Jamboree, text: str) -> None:
    assert len(jam.episode(played(jam.record(InfoEnv(), record_infos=[text]))).data()) == 1


def by_annotation_name(jam: Jamboree, text: str) -> None:
    annotated(jam, {text: 1.0})


def by_annotation_value(jam: Jamboree, text: str) -> None:
    annotated(jam, {"told": text, "deep": {"b": text}})


def by_annotation_key(jam: Jamboree, text: str) -> None:
    annotated(jam, {"deep": {text: 1.0}})


def annotated(jam: Jamboree, values: dict[str, Any]) -> None:
    env = jam.record(CountingEnv())
    env.reset()
    env.annotate(**values)
    env.step(ACTION)
    assert len(jam.episode(env.episode_id).data()) == 1


def by_annotation_by_hand(jam: Jamboree, text: str) -> None:
    env = jam.record(CountingEnv())
    observation, _ = env.reset()
    env.handler.step(ACTION, observation, 1.0, False, False, {}, {text: text})
    assert len(jam.episode(env.episode_id).data()) == 1


def by_options(jam: Jamboree, text: str) -> None:
    id = played(jam.record(CountingEnv()), options={text: text})
    assert len(jam.episode(id).origin.options) == 1


def by_env_id(jam: Jamboree, text: str) -> None:
    inner = CountingEnv()
    inner.spec = EnvSpec("Counting-v0", entry_point="recorded_envs:CountingEnv")
    inner.spec.id = text
    inner.spec.kwargs = {text: text}
    id = played(jam.record(inner))
    assert jam.episodes(env_id=text).ids()[-1:] == [id]
    assert jam.episode(id).provenance["env_kwargs"] == {text: text}


def by_key_of_space(jam: Jamboree, text: str) -> None:
    class Keyed(CountingEnv):
        def __init__(self) -> None:
            super().__init__()
            self.observation_space = spaces.Dict({text: spaces.Discrete(9)})

        def observe(self) -> Any:
            return {text: np.int64(self.count)}

    id = played(jam.record(Keyed()))
    assert jam.episode(id).data().observations[text].tolist() == [0, 1]


def by_observation(jam: Jamboree, text: str) -> None:
    class Telling(CountingEnv):
        def observe(self) -> Any:
            return {text: text}

    id = played(jam.record(Telling()))
    assert next(iter(jam.episode(id).steps())).observation == {text: text}


def by_query(jam: Jamboree, text: str) -> None:
    for asked in ({"run": text}, {"env_id": text}, {"tags": {text: text}}):
        jam.episodes(**asked).ids()
        list(jam.tail(**asked, timeout_s=0))
    jam.episodes().where(parent=text).ids()


def by_run_object(jam: Jamboree, text: str) -> None:
    run = jam.run(text)
    assert run.history == []
    assert run.checkpoints() == []


def by_metric(jam: Jamboree, text: str) -> None:
    MetricHandler(jam, text).put(1, session=text, values={text: 1.0, "text": text})
    assert jam.run(text).metrics().num_rows > 0


def by_keep(jam: Jamboree, text: str) -> None:
    for rule in ({"run": text}, {"env_id": text}, {"tags": {text: text}}):
        jam.backup.retain(keep=[rule])
        assert jam.backup.retention().keep == (rule,)
    jam.backup.retain()


def imported(jam: Jamboree, text: str, **changes: Any) -> None:
    summary = EpisodeSummary(
        f"imported{text}", "", text, "abandoned", 0, 0.0, 1.0, 0.0, None, writer="00" * 8
    )
    leaf = Leaf(np.dtype(np.float64), (), "python")
    arrays = np.arange(2.0)
    episode = NewEpisode(
        replace(summary, **changes),
        EpisodeOrigin(None, None, {text: text} if text.isascii() else None, "0" * 16),
        {"0" * 16: b"{}"},
        [(0, StepSchema(leaf, leaf, NOTHING))],
        arrays,
        arrays[1:],
        np.ones(1),
        np.zeros(1, bool),
        np.zeros(1, bool),
    )
    with EpisodeImporter(jam._connection) as importer:
        importer.add(episode)
    assert jam.episode(episode.summary.id).summary.run == episode.summary.run


def by_import(jam: Jamboree, text: str) -> None:
    imported(jam, text)


def by_tag_of_import(jam: Jamboree, text: str) -> None:
    imported(jam, jam._connection.new_episode_id(), tags={text: text})


def by_summary_by_hand(jam: Jamboree, text: str) -> None:
    env = jam.record(CountingEnv())
    observation, _ = env.reset()
    known = env.handler.episode.summary
    origin = EpisodeOrigin(None, None, None, "0" * 16)
    for name in ("id", "run", "env_id", "parent"):
        unique = jam._connection.new_episode_id()
        value = unique + text if name == "id" else text
        summary = replace(known, **{"id": unique, name: value})
        env.handler.begin(observation, {}, summary=summary, origin=origin)
        assert getattr(env.handler.episode.summary, name) == value


def by_episode(jam: Jamboree, text: str) -> None:
    jam.episode(text).data()


def by_deletion(jam: Jamboree, text: str) -> None:
    jam.episode(text).delete()


def by_restore(jam: Jamboree, text: str) -> None:
    jam.backup.restore([text])


def by_fork(jam: Jamboree, text: str) -> None:
    env = jam.record(gym.make("CartPole-v1"))
    env.reset(seed=1)
    env.step(0)
    child = fork(jam.episode(env.episode_id), 1, run=text, tags={"text": text})
    assert jam.episode(child.episode_id).summary.run == text
    child.close()


def refusal_by(
    door: Callable[[Jamboree, str], None], jam: Jamboree, text: str
) -> JamboreeError | None:
    """What a door raises; None where it lets the text in, and it came back."""
    try:
        door(jam, text)
    except JamboreeError as error:
        str(error).encode()
        return error
    return None


DOORS: list[Callable[[Jamboree, str], None]] = [
    door for name, door in sorted(globals().items()) if name.startswith("by_")
]


@pytest.mark.parametrize("text", [SURROGATE, "\ud800"])
def test_the_name_of_a_run_is_refused_at_once_and_others_are_kept(jam: Jamboree, text: str) -> None:
    for use in (
        lambda: jam.record(CountingEnv(), run=text),
        lambda: jam.record(gym.vector.SyncVectorEnv([CountingEnv]), run=text),
        lambda: jam.run(text),
        lambda: jam.episodes(run=text),
        lambda: Jamboree(namespace=text),
    ):
        with pytest.raises(InvalidArgument, match="is not valid unicode; give another") as caught:
            use()
        assert repr(text) in str(caught.value)
    for use in (
        lambda: jam.record(CountingEnv()).annotate(**{text: 1}),
        lambda: jam.record(CountingEnv()).annotate(deep={"said": text}),
    ):
        with pytest.raises(InvalidRecord, match="is not valid unicode; give another, or") as caught:
            use()
        assert repr(text) in str(caught.value)
    env = jam.record(CountingEnv())
    played(env)
    jam.flush()

    assert jam.episodes().ids() == [env.episode_id]


@pytest.mark.torch
def test_a_vec_env_refuses_it_too(jam: Jamboree) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv

    with pytest.raises(InvalidArgument, match="is not valid unicode"):
        jam.record(DummyVecEnv([CountingEnv]), run=SURROGATE)


def test_a_key_of_a_space_is_refused_by_record(jam: Jamboree) -> None:
    env = CountingEnv()
    env.observation_space = spaces.Tuple([spaces.Dict({SURROGATE: spaces.Discrete(2)})])
    with pytest.raises(UnsupportedSpace, match=r"the key 'caf\\udce9', which is not valid unicode"):
        jam.record(env)


def test_a_name_of_another_kind_of_text_is_a_text(jam: Jamboree) -> None:
    id = played(jam.record(CountingEnv(), run=np.str_("r")))

    assert type(jam.episode(id).summary.run) is str
    assert jam.episodes(run="r").ids() == [id]


def test_a_program_tells_of_a_name_in_its_arguments(valkey: Server, namespace: str) -> None:
    source = """
import os, sys
from recorded_envs import CountingEnv
from jamboree_gym import Jamboree
with Jamboree(sys.argv[1], namespace=sys.argv[2]) as jam:
    jam.record(CountingEnv(), run=os.fsdecode(b"caf\\xe9"))
"""
    ended = run_warm(source, valkey.url, namespace)

    assert ended.returncode == 1
    assert "InvalidArgument: run='caf\\udce9' is not valid unicode" in ended.stderr


@pytest.mark.deep
@settings(
    max_examples=examples(40),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@example(SURROGATE)
@given(st.sampled_from(TEXTS) | st.text(st.characters(), max_size=5))
def test_an_odd_text_is_refused_at_once_or_kept(jam: Jamboree, text: str) -> None:
    for door in DOORS:
        refusal = refusal_by(door, jam, text)
        if isinstance(refusal, (InvalidArgument, InvalidRecord)) and not is_unicode(text):
            assert repr(text)[1:-1] in str(refusal), door
        env = jam.record(CountingEnv(), run="normal")
        played(env)
        env.close()
        jam.flush()
        assert len(jam.episode(env.episode_id).data()) == 1
