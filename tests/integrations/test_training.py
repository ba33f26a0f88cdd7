"""Where a recorder may be in a model's environment, and how a session may end."""

from __future__ import annotations

import copy
import itertools
import logging
import pickle
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from processes import wait_until
from stored import keys_like
from trained import CASES, cartpole, one_thread, recorded

from jamboree_gym import Jamboree
from jamboree_gym.errors import InvalidArgument, InvalidRecord, RunNotFound
from jamboree_gym.wrappers import RecordEpisodes

pytestmark = pytest.mark.torch

PPO_CASE = CASES["PPO"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def callback_for(jam: Jamboree, **options: Any) -> Any:
    from jamboree_gym.integrations.sb3 import JamboreeCallback

    return JamboreeCallback(jam, **options)


def make(record: Callable[[Any], Any], order: str) -> Any:
    """Two CartPoles below these wrappers, the innermost first; `r` is the recorder."""
    from stable_baselines3.common.vec_env import (
        DummyVecEnv,
        VecFrameStack,
        VecMonitor,
        VecNormalize,
    )

    wraps: dict[str, Callable[[Any], Any]] = {
        "r": record,
        "m": VecMonitor,
        "n": VecNormalize,
        "o": partial(VecNormalize, norm_reward=False),
        "s": partial(VecFrameStack, n_stack=2),
    }
    venv: Any = DummyVecEnv([cartpole] * 2)
    for letter in order:
        venv = wraps[letter](venv)
    return venv


# -- where the recorder is ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "recorded_form", "learned_form"),
    [
        ("rmn", ("raw", "raw"), ("normalised", "normalised")),
        ("mnr", ("normalised", "normalised"), ("normalised", "normalised")),
        ("orm", ("normalised", "raw"), ("normalised", "raw")),
        ("mrsn", ("raw", "raw"), ("normalised", "normalised")),
        ("nsr", ("normalised", "normalised"), ("normalised", "normalised")),
        ("rmnr", ("raw", "raw"), ("normalised", "normalised")),
        ("sr", ("raw", "raw"), ("raw", "raw")),
    ],
)
def test_a_recorder_is_found_wherever_it_is(
    jam: Jamboree,
    order: str,
    recorded_form: tuple[str, str],
    learned_form: tuple[str, str],
) -> None:
    runs = iter(["innermost", "other"])
    venv = make(lambda inner: jam.record(inner, run=next(runs)), order)
    model = PPO_CASE.model(venv)
    model.learn(64, callback=callback_for(jam))

    info = jam.run("innermost").info
    assert tuple(info["recorded"].values()) == recorded_form
    assert tuple(info["learned"].values()) == learned_form
    assert len(info["vec_env"]) == len(order) + 1
    for i in range(2):
        kept = recorded(jam, "innermost", i)
        assert kept["value"].tobytes() == values_seen(model)[i].tobytes()
    with pytest.raises(RunNotFound, match=r"no run 'other'|callback=Jam"):
        _ = jam.run("other").info


def values_seen(model: Any) -> Any:
    """Of each environment, in the one rollout; `train` has put one after the other."""
    return model.rollout_buffer.values.reshape(model.n_envs, -1)


@pytest.mark.parametrize("monitor", ["above", "below"])
def test_a_recorder_in_each_environment_is_found(jam: Jamboree, monitor: str) -> None:
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    def make_env() -> Any:
        if monitor == "below":
            return jam.record(Monitor(cartpole()), run="single")
        return Monitor(jam.record(cartpole(), run="single"))

    venv: Any = VecNormalize(DummyVecEnv([make_env] * 2))
    model = PPO_CASE.model(venv)
    model.learn(64, callback=callback_for(jam))

    ids = [{one.id for one in jam.episodes(run="single")}]
    assert len(ids[0]) >= 2
    steps = [one.data() for one in jam.episodes(run="single")]
    said = np.concatenate([one.annotations["value"] for one in steps])
    assert sorted(said.tolist()) == sorted(values_seen(model).ravel().tolist())
    assert all(one.annotated.all() for one in steps)
    assert jam.run("single").info["recorded"] == {"observations": "raw", "rewards": "raw"}


def test_an_environment_that_is_not_recorded_is_an_error_that_says_how(jam: Jamboree) -> None:
    model = PPO_CASE.model(PPO_CASE.make_venv())
    with pytest.raises(InvalidArgument) as caught:
        model.learn(64, callback=callback_for(jam))

    assert 'model.set_env(jam.record(model.get_env(), run="..."))' in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2
    model.set_env(jam.record(model.get_env(), run="now"))
    model.learn(64, callback=callback_for(jam))
    assert jam.run("now").info["timesteps"] == 64


def test_one_of_two_environments_recorded_is_not_enough(jam: Jamboree) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv

    model = PPO_CASE.model(DummyVecEnv([lambda: jam.record(cartpole(), run="one"), cartpole]))
    with pytest.raises(InvalidArgument, match="not recorded"):
        model.learn(64, callback=callback_for(jam))


def test_environments_of_two_runs_are_refused(jam: Jamboree) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv

    runs = iter("ab")
    model = PPO_CASE.model(
        DummyVecEnv([lambda: RecordEpisodes(cartpole(), jam, run=next(runs))] * 2)
    )
    with pytest.raises(InvalidArgument, match="different runs"):
        model.learn(64, callback=callback_for(jam))


def test_another_jamboree_than_the_recorders_is_refused(
    jam: Jamboree, open_jamboree: Callable[..., Jamboree]
) -> None:
    model = PPO_CASE.model(jam.record(PPO_CASE.make_venv(), run="here"))
    with pytest.raises(InvalidArgument, match="another Jamboree"):
        model.learn(64, callback=callback_for(open_jamboree()))


@pytest.mark.parametrize("how", ["beside each other", "twice the same", "one within another"])
def test_two_callbacks_in_one_learn_are_refused_before_it_begins(jam: Jamboree, how: str) -> None:
    from stable_baselines3.common.callbacks import CallbackList, EveryNTimesteps

    model, one = PPO_CASE.model(jam.record(PPO_CASE.make_venv(), run="r")), callback_for(jam)
    callbacks: Any = {
        "beside each other": [callback_for(jam), one],
        "twice the same": [one, one],
        "one within another": CallbackList([CallbackList([one]), EveryNTimesteps(8, one)]),
    }[how]
    with pytest.raises(InvalidArgument, match="2 JamboreeCallbacks"):
        model.learn(64, callback=callbacks)

    assert jam.run("r").history == []
    assert model.num_timesteps == 0
    model.learn(64, callback=[one])
    assert [session.how for session in jam.run("r").history] == ["finished"]


@pytest.mark.parametrize("name", ["checkpoint_every", "keep_checkpoints"])
@pytest.mark.parametrize("number", [0, -1, True, 2.5])
def test_what_is_no_number_of_steps_is_refused(jam: Jamboree, name: str, number: Any) -> None:
    with pytest.raises(InvalidArgument, match=name):
        callback_for(jam, **{name: number})


# -- how a session ends -------------------------------------------------------------------------


class Fuse(gym.Wrapper[Any, Any, Any, Any]):
    """Raises at a step."""

    def __init__(self, env: Any, at: int) -> None:
        super().__init__(env)
        self.left = at

    def step(self, action: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            raise ValueError("burnt")
        return super().step(action)


def test_a_learn_that_an_exception_has_ended_is_told_from_one_that_goes_on() -> None:
    from jamboree_gym.integrations.sb3.training.learning import LearnWatch

    has_ended = threading.Event()
    watches = []

    def learn() -> None:
        watches.append(LearnWatch(has_ended.set))
        assert watches[0]._is_running()
        raise ValueError("burnt")

    with pytest.raises(ValueError, match="burnt") as caught:
        learn()

    assert not watches[0]._is_running()
    assert has_ended.wait(60)
    assert watches[0]._frame is None
    assert caught.traceback[-1].frame.f_locals["watches"] is watches  # a debugger still finds it


def test_an_exception_is_in_the_history_and_the_model_as_it_was(jam: Jamboree) -> None:
    from stable_baselines3.common.logger import Logger
    from stable_baselines3.common.vec_env import DummyVecEnv

    model = PPO_CASE.model(jam.record(DummyVecEnv([lambda: Fuse(cartpole(), 50)]), run="burnt"))
    model.set_logger(Logger(None, []))  # one that outlives a call of `learn`
    callback = callback_for(jam)
    with pytest.raises(ValueError, match="burnt"):
        model.learn(500, callback=callback)
    wait_until(lambda: jam.run("burnt").history[0].how == "raised")

    (session,) = jam.run("burnt").history
    assert (session.timesteps_from, session.timesteps_to) == (0, 49)
    assert "forward" not in vars(model.policy)
    assert model.logger.output_formats == []
    model.learn(64, callback=callback)
    assert [one.how for one in jam.run("burnt").history] == ["raised", "finished"]


def test_learning_again_ends_what_an_exception_has_left(jam: Jamboree) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv

    model = PPO_CASE.model(jam.record(DummyVecEnv([lambda: Fuse(cartpole(), 5)]), run="again"))
    with pytest.raises(ValueError, match="burnt"):
        model.learn(500, callback=callback_for(jam))
    model.learn(64, callback=callback_for(jam))

    assert [one.how for one in jam.run("again").history] == ["raised", "finished"]
    assert "forward" not in vars(model.policy)


def test_checkpoints_wait_for_a_redis_that_is_away(
    durable_valkey: Any, open_jamboree: Callable[..., Jamboree]
) -> None:
    from stable_baselines3.common.callbacks import BaseCallback

    class Outage(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 32:
                durable_valkey.kill()
            if self.num_timesteps == 224:
                durable_valkey.start()
            return True

    jam = open_jamboree(durable_valkey.url)
    model = PPO_CASE.model(jam.record(PPO_CASE.make_venv(), run="away"))
    callback = callback_for(jam, checkpoint_every=64, keep_checkpoints=1)
    model.learn(256, callback=[callback, Outage()])

    assert jam.run("away").info["how"] == "finished"
    assert jam.run("away").checkpoints()[-1].load(PPO_CASE.algorithm).num_timesteps == 256
    assert sum(one.steps for one in jam.run("away").episodes.summaries()) == 256


def test_closing_the_jamboree_ends_what_an_exception_has_left(
    open_jamboree: Callable[..., Jamboree],
) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv

    jam, reader = open_jamboree(), open_jamboree()
    model = PPO_CASE.model(jam.record(DummyVecEnv([lambda: Fuse(cartpole(), 5)]), run="closed"))
    with pytest.raises(ValueError, match="burnt"):
        model.learn(500, callback=callback_for(jam))
    jam.close()

    assert [one.how for one in reader.run("closed").history] == ["raised"]


def test_learning_goes_on_where_it_stopped(jam: Jamboree) -> None:
    model = PPO_CASE.model(jam.record(PPO_CASE.make_venv(), run="on"))
    for _ in range(2):
        model.learn(64, callback=callback_for(jam), reset_num_timesteps=False)

    spans = [(one.timesteps_from, one.timesteps_to) for one in jam.run("on").history]
    assert spans == [(0, 64), (64, 128)]
    assert sum(one.steps for one in jam.run("on").episodes.summaries()) == 128


def test_learning_goes_on_after_running_episodes_were_deleted(jam: Jamboree) -> None:
    venv = jam.record(PPO_CASE.make_venv(), run="emptied")
    model = PPO_CASE.model(venv)
    model.learn(64, callback=callback_for(jam))
    jam.flush()
    for one in jam.episodes(run="emptied"):
        one.delete()
    venv.step(np.zeros(venv.num_envs, int))
    jam.flush()

    model.learn(64, callback=callback_for(jam), reset_num_timesteps=False)
    assert [one.how for one in jam.run("emptied").history] == ["finished"] * 2


def test_while_it_goes_on_history_tells_the_steps_that_are_recorded(jam: Jamboree) -> None:
    from stable_baselines3.common.callbacks import BaseCallback

    class Asking(BaseCallback):
        seen: list[Any] = []  # noqa: RUF012 - one instance

        def _on_step(self) -> bool:
            if self.num_timesteps in (32, 96):
                self.seen += [jam.run("live").history[-1]]
            return True

    model = PPO_CASE.model(jam.record(PPO_CASE.make_venv(), run="live"))
    model.learn(64, callback=[callback_for(jam), Asking()])
    model.learn(64, callback=[callback_for(jam), Asking()], reset_num_timesteps=False)

    assert [(one.how, one.timesteps_to) for one in Asking.seen] == [
        ("running", 32),
        ("running", 96),
    ]
    assert "timesteps 64 to 96: running" in str(Asking.seen[-1])


def test_steps_after_the_training_are_not_annotated(jam: Jamboree) -> None:
    case = CASES["DQN"]
    venv = jam.record(case.make_venv(), run="after")
    model = case.model(venv)
    model.learn(60, callback=callback_for(jam))
    venv.step(np.zeros(1, int))

    kept = recorded(jam, "after", 0)
    assert kept["annotated"].tolist() == [True] * 60 + [False]


def test_a_copy_of_the_policy_is_not_watched(jam: Jamboree) -> None:
    from stable_baselines3.common.callbacks import BaseCallback

    copies: list[Any] = []

    class Copying(BaseCallback):
        def _on_step(self) -> bool:
            if not copies:
                policy = self.model.policy
                copies.extend([copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))])
            return True

    model = PPO_CASE.model(jam.record(PPO_CASE.make_venv(), run="copied"))
    model.learn(64, callback=[callback_for(jam), Copying()])
    for one in copies:
        assert one.forward.__self__ is one


# -- what is logged -----------------------------------------------------------------------------


def test_evaluations_are_among_the_metrics(jam: Jamboree) -> None:
    from stable_baselines3.common.callbacks import EvalCallback

    model = PPO_CASE.model(make(lambda inner: jam.record(inner, run="evaluated"), "rm"))
    evaluation = EvalCallback(
        make(lambda inner: inner, "m"), eval_freq=32, n_eval_episodes=2, verbose=0
    )
    model.learn(128, callback=[callback_for(jam), evaluation])

    table = jam.run("evaluated").metrics()
    rows = table.select(["timesteps", "eval/mean_reward"]).drop_null().to_pylist()
    assert [row["timesteps"] for row in rows] == [64, 128]
    assert rows[-1]["eval/mean_reward"] == evaluation.last_mean_reward


@pytest.mark.parametrize("order", ["rn", pytest.param("nr", marks=pytest.mark.long)])
def test_below_and_above_a_normaliser_the_evaluation_environment_is_recorded_too(
    jam: Jamboree, order: str
) -> None:
    from stable_baselines3.common.callbacks import EvalCallback

    model = PPO_CASE.model(make(lambda inner: jam.record(inner, run="trained"), order))
    venv = make(lambda inner: jam.record(inner, run="evaluated"), order)
    evaluation = EvalCallback(venv, eval_freq=32, n_eval_episodes=1, verbose=0, warn=False)
    model.learn(64, callback=[callback_for(jam), evaluation])

    jam.flush()
    assert len(jam.episodes(run="evaluated"))


def test_metrics_are_numbers_texts_and_arrays_and_what_else_there_is_is_told_once(
    jam: Jamboree, caplog: pytest.LogCaptureFixture
) -> None:
    import torch
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.logger import Image

    class Logging(BaseCallback):
        def _on_rollout_end(self) -> None:
            log = self.logger.record
            log("own/text", "fine")
            log("own/tensor", torch.tensor(1.5))
            log("own/many", np.arange(3))
            log("own/secret", 1, exclude="jamboree")
            log("own/image", Image(torch.zeros(3, 2, 2), "CHW"))

        def _on_step(self) -> bool:
            return True

    model = PPO_CASE.model(jam.record(PPO_CASE.make_venv(), run="logged"))
    with caplog.at_level(logging.WARNING, "jamboree_gym"):
        model.learn(128, callback=[callback_for(jam), Logging()])

    table = jam.run("logged").metrics()
    assert table["own/text"].to_pylist() == ["fine"] * 2
    assert table["own/tensor"].to_pylist() == [1.5] * 2
    assert not {"own/many", "own/secret", "own/image"} & set(table.column_names)
    assert [one.getMessage() for one in caplog.records].count(
        "not kept, as they are neither numbers nor texts: own/image"
    ) == 1


def test_hyperparameters_are_json_and_schedules_their_ends(jam: Jamboree) -> None:
    import json

    case = CASES["TD3"]
    from stable_baselines3.common.noise import NormalActionNoise

    noise = NormalActionNoise(np.zeros(1), np.ones(1) * 0.1)
    venv = jam.record(case.make_venv(), run="described")
    model = case.model(venv, learning_rate=lambda left: left * 1e-3, action_noise=noise)
    model.learn(8, callback=callback_for(jam))

    kept = jam.run("described").info["hyperparameters"]
    assert json.loads(json.dumps(kept)) == kept
    assert kept["learning_rate"] == {"start": 1e-3, "end": 0.0}
    assert kept["train_freq"] == [4, "step"]
    assert kept["action_noise"].startswith("VecNoise(BaseNoise=NormalActionNoise(")
    assert kept["replay_buffer_class"] == "stable_baselines3.common.buffers.ReplayBuffer"


# -- checkpoints --------------------------------------------------------------------------------


def slow_clock() -> Callable[[], float]:
    """A clock that is ten seconds on whenever it is asked."""
    return itertools.count(0.0, 10.0).__next__


@pytest.mark.parametrize(
    ("options", "timesteps"),
    [
        ({}, [24, 36, 48, 60, 64]),
        ({"checkpoint_every_s": 110}, [22, 44, 64]),
        ({"checkpoint_every": 32}, [32, 64, 64]),
        ({"checkpoint_every": 32, "checkpoint_every_s": 250}, [32, 64, 64]),
        ({"checkpoint_every": 32, "checkpoint_every_s": 100}, [20, 40, 60, 64]),
        ({"checkpoint_every_s": None}, [64]),
        ({"checkpoint_every_s": 0}, [64]),
    ],
)
def test_checkpoints_are_made_every_minute_or_as_often_as_asked_for(
    jam: Jamboree, options: dict[str, Any], timesteps: list[int]
) -> None:
    model = PPO_CASE.model(jam.record(PPO_CASE.make_venv(), run="often"))
    model.learn(64, callback=callback_for(jam, clock=slow_clock(), **options))

    wait_until(lambda: made(jam, "often")[-len(timesteps) :] == timesteps)
    assert len(made(jam, "often")) <= 6


def made(jam: Jamboree, run: str) -> list[int]:
    return [one.timesteps for one in jam.run(run).checkpoints()]


@pytest.mark.parametrize("seconds", [-1, True, "60", float("nan"), float("inf")])
def test_what_is_no_number_of_seconds_is_refused(jam: Jamboree, seconds: Any) -> None:
    with pytest.raises(InvalidArgument, match="checkpoint_every_s"):
        callback_for(jam, checkpoint_every_s=seconds)


def test_only_the_newest_checkpoints_stay_and_the_last_of_each_learn(jam: Jamboree) -> None:
    model = PPO_CASE.model(jam.record(PPO_CASE.make_venv(), run="few"))
    for _ in range(2):
        callback = callback_for(jam, checkpoint_every=32, keep_checkpoints=2)
        model.learn(128, callback=callback, reset_num_timesteps=False)

    wait_until(lambda: made(jam, "few") == [128, 256, 256])
    found = jam.run("few").checkpoints()
    assert [one.number for one in found] == [4, 8, 9]
    assert [one.is_final for one in found] == [True, False, True]
    assert len(found[0].content()) == found[0].size
    contents = f"*{jam._connection.keyspace.namespace}:*checkpoint-content*"
    wait_until(lambda: len(keys_like(jam.redis, contents)) == 3)


def test_a_learn_that_is_over_leaves_nothing_to_be_done_at_the_close(jam: Jamboree) -> None:
    model = PPO_CASE.model(jam.record(PPO_CASE.make_venv(), run="many"))
    callbacks = jam._connection._close_callbacks
    before = len(callbacks)
    for _ in range(3):
        model.learn(16, callback=callback_for(jam), reset_num_timesteps=False)

    wait_until(lambda: len(callbacks) == before)


def test_closing_the_jamboree_waits_until_old_checkpoints_are_deleted(
    open_jamboree: Callable[..., Jamboree],
) -> None:
    jam = open_jamboree()
    model = PPO_CASE.model(jam.record(PPO_CASE.make_venv(), run="many"))
    model.learn(256, callback=callback_for(jam, checkpoint_every=16))
    jam.close()

    assert len(open_jamboree().run("many").checkpoints()) == 5


def test_a_checkpoint_that_could_not_be_stored_is_told_at_the_next(
    open_jamboree: Callable[..., Jamboree], monkeypatch: pytest.MonkeyPatch
) -> None:
    from jamboree_gym.runs.checkpoints import CheckpointHandler

    jam = open_jamboree()
    model = PPO_CASE.model(jam.record(PPO_CASE.make_venv(), run="untold"))
    monkeypatch.setattr(
        CheckpointHandler, "content", lambda *_: jam._connection.check_tags({"no": object()})
    )
    with pytest.raises(InvalidRecord, match="tags"):
        model.learn(128, callback=callback_for(jam, checkpoint_every=32))
    assert model.num_timesteps in (64, 96, 128)  # later where the storing thread had no time


def test_training_goes_on_while_a_checkpoint_is_stored(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stable_baselines3.common.callbacks import BaseCallback

    from jamboree_gym.runs.checkpoints import CheckpointHandler

    may_store, put = threading.Event(), CheckpointHandler.put

    def slow_put(*arguments: Any, **options: Any) -> None:
        if not may_store.wait(60):
            raise InvalidRecord("the training waits")
        put(*arguments, **options)

    class Going(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps >= 80:
                may_store.set()
            return True

    monkeypatch.setattr(CheckpointHandler, "put", slow_put)
    model = PPO_CASE.model(jam.record(PPO_CASE.make_venv(), run="stored"))
    model.learn(128, callback=[callback_for(jam, checkpoint_every=32), Going()])

    assert [one.timesteps for one in jam.run("stored").checkpoints()] == [32, 64, 96, 128, 128]


@pytest.mark.parametrize("verbose", [0, 1])
def test_where_what_is_kept_is_said_unless_nothing_is_to_be_said(
    jam: Jamboree, capsys: pytest.CaptureFixture[str], verbose: int
) -> None:
    model = PPO_CASE.model(jam.record(PPO_CASE.make_venv(), run="said"))
    model.learn(64, callback=callback_for(jam, verbose=verbose))

    store = jam._connection.store
    expected = (
        f"Run 'said' is kept on {store.where}, namespace {store.keyspace.namespace!r}: "
        "steps, metrics, a checkpoint every 60 s and at the end (the newest 5 stay)\n"
        "After a kill, continue with jam.run('said').resume(PPO, env)\n"
    )
    assert capsys.readouterr().out == expected * verbose


def test_a_checkpoint_of_another_algorithm_is_refused(jam: Jamboree) -> None:
    from stable_baselines3 import SAC

    env = jam.record(PPO_CASE.make_venv(), run="of-ppo")
    PPO_CASE.model(env).learn(64, callback=callback_for(jam))

    said = r"checkpoint 0 is of PPO, you asked for SAC: use \.load\(PPO\), or \.resume\(PPO, env\)"
    with pytest.raises(InvalidArgument, match=said):
        jam.run("of-ppo").checkpoint().load(SAC)
    with pytest.raises(InvalidArgument, match=said):
        jam.run("of-ppo").resume(SAC, env)


def test_a_model_that_cannot_be_saved_is_told(jam: Jamboree) -> None:
    import threading

    model = PPO_CASE.model(jam.record(PPO_CASE.make_venv(), run="live"))
    model.own = threading.Lock()
    with pytest.raises(InvalidRecord, match=r"because model.save\(\) fails: cannot pickle .*lock"):
        model.learn(64, callback=callback_for(jam))

    assert jam.run("live").info["how"] == "finished"
    assert jam.run("live").checkpoints() == []


def test_the_normaliser_comes_back_with_the_model(jam: Jamboree) -> None:
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import VecNormalize

    venv = make(lambda inner: jam.record(inner, run="normalised"), "rn")
    PPO_CASE.model(venv).learn(64, callback=callback_for(jam))
    checkpoint = jam.run("normalised").checkpoint()
    again = make(lambda inner: jam.record(inner, run="normalised"), "rn")
    model = checkpoint.load(PPO, again)

    own = model.get_vec_normalize_env()
    assert isinstance(own, VecNormalize)
    assert own is again
    assert np.array_equal(own.obs_rms.mean, venv.obs_rms.mean)
    assert own.ret_rms.count == venv.ret_rms.count > 64
    with pytest.raises(InvalidArgument, match="wrap it as it was"):
        checkpoint.load(PPO, make(lambda inner: inner, "r"))
