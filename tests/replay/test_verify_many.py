"""`verify` of many episodes: their reports, in this process and in several."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import pytest
from forged import forge_origin
from processes import PATHS, read_line, start_python, wait_until
from replayed_envs import (
    KilledEnv,
    LivesEnv,
    MirrorObservation,
    OffEnv,
    RememberingEnv,
    TalliedEnv,
    record,
    registered,
)

from jamboree_gym import Jamboree
from jamboree_gym.errors import ReplayError, StoreUnavailable
from jamboree_gym.replay import VerifyReports, verify

ENVS = {
    "Killed": KilledEnv,
    "Lives": LivesEnv,
    "Off": OffEnv,
    "Remembering": RememberingEnv,
}


@pytest.fixture(autouse=True)
def envs(warm_workers: None) -> Iterator[None]:
    with registered(**ENVS):
        yield


def change_env(name: str, **kwargs: object) -> None:
    """From now on it is another environment."""
    gym.registry.pop(f"tests/{name}-v0")
    gym.register(f"tests/{name}-v0", entry_point=ENVS[name], kwargs=kwargs)


def record_cartpole(jam: Jamboree, episodes: int, run: str) -> list[str]:
    """Episodes of one environment, only the first of them seeded; and their ids."""
    env = jam.record(gym.make("CartPole-v1"), run=run)
    env.action_space.seed(1)
    ids = []
    for number in range(episodes):
        env.reset(seed=None if number else 1)
        ids.append(env.episode_id)
        is_over = False
        while not is_over:
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            is_over = terminated or truncated
    env.close()
    return ids


# -- in this process --------------------------------------------------------------------------


def test_all_episodes_of_a_query_happen_again_in_its_order(jam: Jamboree) -> None:
    ids = record_cartpole(jam, 5, "many")

    reports = verify(jam.episodes(run="many").order_by("-started_at"))

    assert isinstance(reports, VerifyReports)
    assert reports
    assert [report.episode_id for report in reports] == ids[::-1]
    assert [report.steps for report in reports] == [len(jam.episode(id)) for id in ids[::-1]]
    assert reports.failed == ()
    assert str(reports).startswith("5 of 5 episodes are equal; ")


def test_episodes_may_be_given_one_by_one(jam: Jamboree) -> None:
    ids = record_cartpole(jam, 3, "many")

    reports = verify([jam.episode(ids[2]), jam.episode(ids[0]), jam.episode(ids[2])])

    assert [report.episode_id for report in reports] == [ids[2], ids[0], ids[2]]
    assert reports


def test_no_episode_is_not_verified(jam: Jamboree) -> None:
    assert not verify(jam.episodes())
    assert not verify([])


def test_what_cannot_be_simulated_again_is_among_the_failed(jam: Jamboree) -> None:
    good = record(jam, gym.make("CartPole-v1"), seed=1)
    unregistered = record(jam, gym.make("tests/Lives-v0"), seed=1)
    without_spec = record(jam, LivesEnv(), seed=1)
    gym.registry.pop("tests/Lives-v0")
    missing = jam.episode("nowhere")

    reports = verify([unregistered, good, missing, without_spec])

    assert [bool(report) for report in reports] == [False, True, False, False]
    assert [report.error for report in reports][1] is None
    assert "not registered here" in str(reports[0].error)
    assert "no episode 'nowhere'" in str(reports[2].error)
    assert "not made by gymnasium.make" in str(reports[3].error)
    assert "3 could not be verified" in str(reports)
    assert len(reports.failed) == 3


def test_episodes_that_differ_are_named_with_step_and_leaf(jam: Jamboree) -> None:
    for _ in range(7):
        record(jam, gym.make("tests/Off-v0"), run="off", seed=1)
    change_env("Off", off=0.5)

    reports = verify(jam.episodes(run="off"))

    assert not reports
    assert {(one.mismatch.step, one.mismatch.leaf) for one in reports} == {(-1, "observation[0]")}
    assert "0 of 7 episodes are equal, 7 differ" in str(reports)
    assert "... and 2 more in .failed" in str(reports)


def test_what_an_environment_carries_on_is_found_in_any_company(jam: Jamboree) -> None:
    env = jam.record(gym.make("tests/Remembering-v0"), run="carried")
    for seed in range(3):
        env.reset(seed=seed)
        env.step(env.action_space.sample())
    env.close()
    alone = [bool(verify(episode)) for episode in jam.episodes(run="carried")]

    together = [bool(report) for report in verify(jam.episodes(run="carried"))]

    assert alone == together == [True, False, False]


def test_an_environment_of_gymnasium_is_made_once_for_many(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gymnasium.envs.classic_control import cartpole

    made = []
    init = cartpole.CartPoleEnv.__init__
    monkeypatch.setattr(
        cartpole.CartPoleEnv, "__init__", lambda self, **kw: (made.append(1), init(self, **kw))[1]
    )
    record_cartpole(jam, 6, "many")
    made.clear()

    assert verify(jam.episodes(run="many"))
    assert len(made) == 1


def test_a_difference_in_a_used_environment_is_confirmed_in_a_new_one(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_cartpole(jam, 4, "many")
    from gymnasium.envs.classic_control import cartpole

    step = cartpole.CartPoleEnv.step

    def worn(self: cartpole.CartPoleEnv, action: int) -> object:
        self.steps_done = getattr(self, "steps_done", 0) + 1
        observation, reward, *rest = step(self, action)
        return observation, reward + (self.steps_done > 200), *rest

    monkeypatch.setattr(cartpole.CartPoleEnv, "step", worn)
    monkeypatch.setattr(cartpole.CartPoleEnv, "steps_done", 180, raising=False)

    reports = verify(jam.episodes(run="many"))

    alone = [verify(episode) for episode in jam.episodes(run="many")]
    assert [bool(one) for one in reports] == [bool(one) for one in alone]
    assert any(reports)
    assert not all(reports)


def record_followers(jam: Jamboree, steps: int = 30, run: str = "followers") -> None:
    """Episodes of a vector environment in other processes, each but the first after another."""
    envs = jam.record(gym.make_vec("tests/Tallied-v0", 2, vectorization_mode="async"), run=run)
    envs.reset(seed=1)
    for _ in range(steps):
        envs.step(envs.action_space.sample())
    envs.close()


def test_an_episode_that_follows_goes_on_where_the_one_before_ended_in_any_order(
    jam: Jamboree,
) -> None:
    with registered(Tallied=TalliedEnv):
        record_followers(jam)
        query = jam.episodes(run="followers")
        TalliedEnv.made = TalliedEnv.taken = 0

        reports = verify(query)

        assert reports, str(reports)
        assert len(reports) > 8
        assert sum(episode.origin.follows is not None for episode in query) == len(reports) - 2
        assert (TalliedEnv.made, TalliedEnv.taken) == (2, sum(one.steps for one in reports))
        assert verify(query.order_by("-started_at"))


def test_an_episode_after_one_that_differs_is_verified_by_itself(jam: Jamboree) -> None:
    with registered(Tallied=TalliedEnv):
        record_followers(jam)
        query = jam.episodes(run="followers")
        second = next(one for one in query if one.origin.follows is not None)
        forge_origin(jam, second, options={"unheard": "of"}, seed=7, follows=second.predecessor.id)

        together = [bool(report) for report in verify(query)]

        assert together == [bool(verify(episode)) for episode in query]
        assert 0 < sum(together) < len(together)


def test_episodes_of_another_provenance_get_another_environment(jam: Jamboree) -> None:
    for g in (9.0, 10.0, 9.0):
        record(jam, gym.make("Pendulum-v1", g=g), run="mixed", seed=1)

    assert verify(jam.episodes(run="mixed"))


def test_progress_is_told_after_each_episode(jam: Jamboree) -> None:
    record_cartpole(jam, 3, "many")
    told: list[tuple[int, int]] = []

    verify(jam.episodes(run="many"), progress=lambda *numbers: told.append(numbers))

    assert told == [(1, 3), (2, 3), (3, 3)]


def test_progress_is_shown_on_stderr(jam: Jamboree, capsys: pytest.CaptureFixture[str]) -> None:
    record_cartpole(jam, 2, "many")

    verify(jam.episodes(run="many"), progress=True)

    assert capsys.readouterr().err.endswith("2 of 2 episodes verified\n")


def test_reports_are_written_as_json(jam: Jamboree, tmp_path: Path) -> None:
    record(jam, gym.make("tests/Off-v0"), run="off", seed=1)
    record(jam, LivesEnv(), run="off")
    change_env("Off", off=float("inf"))
    reports = verify(jam.episodes(run="off"))

    text = reports.to_json(tmp_path / "reports.json")

    assert (tmp_path / "reports.json").read_text() == text == reports.to_json()
    content = json.loads(text)
    assert (content["equal"], content["episodes"], content["failed"]) == (False, 2, 2)
    first, second = content["reports"]
    assert first["mismatch"]["leaf"] == "observation[0]"
    assert (first["mismatch"]["recorded"], first["mismatch"]["simulated"]) == (0.0, "inf")
    assert second["mismatch"] is None
    assert "not made by" in second["error"]


def test_a_misspelt_info_is_noticed(jam: Jamboree) -> None:
    for _ in range(2):
        record(jam, gym.make("tests/Lives-v0"), run="lives", seed=1)

    assert verify(jam.episodes(run="lives"), infos=["lives"])
    reports = verify(jam.episodes(run="lives"), infos=["lives", "livs"])
    assert not reports
    assert reports.unseen == ("livs",)
    assert "no episode has these infos: livs" in str(reports)
    with pytest.raises(ReplayError, match="no info 'livs'"):
        verify(jam.episodes(run="lives").first(), infos=["livs"])


@pytest.mark.parametrize(
    "options",
    [
        {"workers": 0},
        {"rtol": -1.0},
        {"wrappers": [LivesEnv]},
    ],
)
def test_options_that_mean_nothing_are_refused(jam: Jamboree, options: dict[str, object]) -> None:
    with pytest.raises(ReplayError, match=next(iter(options))):
        verify(jam.episodes(), **options)


# -- in several processes ---------------------------------------------------------------------


@pytest.mark.timeout(300)  # a busy machine takes its time
def test_workers_report_the_same_in_the_same_order(jam: Jamboree) -> None:
    """Also of what is registered and trusted here, of what cannot be pickled, of episodes that
    follow others, and beside one that kills its worker."""
    here = os.getpid()

    class LocalEnv(LivesEnv):
        def __init__(self) -> None:
            super().__init__()
            assert os.getpid() == here

    record_cartpole(jam, 5, "many")
    killer = record(jam, gym.make("tests/Killed-v0", recorder=here), run="many", seed=1)
    off = record(jam, gym.make("tests/Off-v0"), run="many", seed=1)
    without_spec = record(jam, LivesEnv(), run="many")
    for seed in range(4):
        env = MirrorObservation(gym.make("tests/Lives-v0", lives=seed))
        record(jam, env, run="many", seed=seed)
    with registered(Local=LocalEnv, Lambda=lambda: LivesEnv(), Tallied=TalliedEnv):
        for name in ("Local", "Lambda"):
            record(jam, gym.make(f"tests/{name}-v0"), run="many", seed=1)
        record_followers(jam, run="many")
        change_env("Off", off=0.5)
        query, options = jam.episodes(run="many"), {"wrappers": [MirrorObservation], "infos": True}
        alone, together = verify(query, **options), verify(query, workers=2, **options)

    assert [report.episode_id for report in together] == query.ids()
    errors = {report.episode_id: report.error for report in together.failed}
    assert errors.keys() == {killer.id, off.id, without_spec.id}, str(together)
    assert errors[killer.id] == "the process that simulated it died (SIGKILL)"
    found, expected = (json.loads(reports.to_json())["reports"] for reports in (together, alone))
    place = query.ids().index(killer.id)
    assert found[:place] + found[place + 1 :] == expected[:place] + expected[place + 1 :]


def test_wrappers_that_cannot_be_pickled_are_refused(jam: Jamboree) -> None:
    class LocalWrapper(gym.Wrapper):
        pass

    record_cartpole(jam, 2, "many")

    with pytest.raises(ReplayError, match="top of a module, or verify with workers=1"):
        verify(jam.episodes(run="many"), workers=2, wrappers=[LocalWrapper])


@pytest.mark.long
def test_workers_use_the_embedded_servers_of_a_home(tmp_path: Path) -> None:
    from jamboree_gym.servers.embedded import stop_servers

    home = tmp_path / "h"
    try:
        with Jamboree(home=home, namespace="other") as jam:
            record_cartpole(jam, 4, "many")
            assert verify(jam.episodes(run="many"), workers=2)
    finally:
        stop_servers(home)


@pytest.mark.usefixtures("warm_workers")
def test_a_store_that_does_not_answer_is_an_error(own_valkey, namespace: str) -> None:
    with Jamboree(own_valkey.url, namespace=namespace) as jam:
        record_cartpole(jam, 4, "many")
        query = jam.episodes(run="many")

        def kill(done: int, total: int) -> None:
            own_valkey.kill()

        with pytest.raises(StoreUnavailable):
            verify(list(query), workers=2, progress=kill)


SCRIPT = """
import sys, os
import gymnasium as gym
from jamboree_gym import Jamboree
from jamboree_gym.replay import verify
from replayed_envs import LivesEnv

class OwnEnv(LivesEnv):
    pass

gym.register("tests/Own-v0", entry_point=OwnEnv)

def main():
    with Jamboree(sys.argv[1], namespace=sys.argv[2]) as jam:
        for _ in range(4):
            env = jam.record(gym.make("tests/Own-v0"), run="own")
            env.reset(seed=1)
            env.step(env.action_space.sample())
            env.close()
        print(verify(jam.episodes(run="own"), workers=2))

%s
"""


def run_script(path: Path, content: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    path.write_text(content)
    paths = os.pathsep.join([*PATHS, str(Path(__file__).parent)])
    return subprocess.run(
        [sys.executable, str(path), *arguments],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.long
def test_a_script_may_verify_its_own_environment_in_workers(
    valkey, namespace: str, tmp_path: Path
) -> None:
    guarded = SCRIPT % 'if __name__ == "__main__":\n    main()'

    done = run_script(tmp_path / "script.py", guarded, valkey.url, namespace)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("4 of 4 episodes are equal")


@pytest.mark.long
def test_a_script_without_guard_is_told_so(valkey, namespace: str, tmp_path: Path) -> None:
    done = run_script(tmp_path / "script.py", SCRIPT % "main()", valkey.url, namespace)

    assert done.returncode == 1
    assert 'needs `if __name__ == "__main__":`' in done.stderr


WAITING = """
import os, sys, time
import gymnasium as gym
from jamboree_gym import Jamboree
from jamboree_gym.replay import verify
from recorded_envs import CountingEnv

class SlowEnv(CountingEnv):
    def __init__(self, recorder=0):
        super().__init__()
        self.recorder = recorder
    def step(self, action):
        if os.getpid() != self.recorder:
            print("stepping", os.getpid(), flush=True)
            time.sleep(60)
        return super().step(action)
"""


@pytest.mark.long
def test_ctrl_c_ends_all_processes(valkey, namespace: str, tmp_path: Path) -> None:
    (tmp_path / "slow_env.py").write_text(WAITING)
    script = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from slow_env import *
gym.register("tests/Slow-v0", entry_point=SlowEnv)
with Jamboree({valkey.url!r}, namespace={namespace!r}) as jam:
    for _ in range(2):
        env = jam.record(gym.make("tests/Slow-v0", recorder=os.getpid()), run="slow")
        env.reset(seed=1)
        env.step(env.action_space.sample())
        env.close()
    verify(jam.episodes(run="slow"), workers=2)
"""
    process = start_python(script)
    workers = [int(read_line(process).split()[1]) for _ in range(2)]

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)

    assert "KeyboardInterrupt" in err
    wait_until(lambda: not any(map(is_alive, workers)))


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
