"""Commands on the episodes of several agents: recorded, verified, replayed and forked together."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
from conftest import Server
from recorded_store import Store
from typer.testing import CliRunner

from jamboree_gym.cli import app

TICTACTOE = "aec:classic/tictactoe-v3"
HUNT = "parallel:sisl/pursuit-v5"
SMALL = ("--arg", "n_pursuers=2", "--arg", "n_evaders=2", "--arg", "max_cycles=4")
OTHER = """
import pettingzoo

def make(**arguments):
    env = pettingzoo.make("aec", "classic/tictactoe-v3", **arguments)
    observe = env.unwrapped.observe

    def observe_otherwise(agent):
        seen = observe(agent)
        return {**seen, "observation": 1 - seen["observation"]}

    env.unwrapped.observe = observe_otherwise
    return env
"""


POLICY = """
def act(observation, agent):
    assert agent in ("player_1", "player_2")
    return int(observation["action_mask"].argmax())  # the first square that is free
"""


@pytest.fixture(scope="module")
def store(valkey: Server, mongo: Server) -> Store:
    """Two games of tic-tac-toe, and a short hunt."""
    made = Store(valkey.url, mongo.url, f"test-{uuid.uuid4().hex[:12]}")
    (told,) = made.objects("record", TICTACTOE, "--episodes", 2, "--run", "duel", "--seed", 1)
    assert len(told["episodes"]) == 2
    made.first_id = told["episodes"][0]
    assert made.run("record", HUNT, *SMALL, "--run", "hunt", "--seed", 1).exit_code == 0
    return made


@pytest.fixture
def other_game(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A function that makes a game in which all looks different."""
    name = f"other_{uuid.uuid4().hex[:8]}"
    (tmp_path / f"{name}.py").write_text(OTHER)
    monkeypatch.syspath_prepend(str(tmp_path))
    return f"{name}:make"


def test_each_agent_has_an_episode(store: Store) -> None:
    listed = store.objects("ls", "--run", "duel")
    assert sorted(one["tags"]["agent"] for one in listed) == ["player_1"] * 2 + ["player_2"] * 2
    assert store.first_id in {one["tags"]["joint"] for one in listed}
    assert len(store.objects("ls", "--run", "hunt")) == 2


def test_all_agents_are_verified_together(store: Store) -> None:
    done = store.run("verify", "--run", "duel", "--run", "hunt")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("3 of 3 episodes are equal; ")
    one = json.loads(store.run("verify", store.first_id, "--json").stdout)["reports"]
    assert [(part["episode_id"], part["turn"]) for part in one] == [(store.first_id, None)]
    assert one[0]["turns"] >= 5


def test_a_game_that_differs_is_said_with_turn_and_agent(store: Store, other_game: str) -> None:
    done = store.run("verify", store.first_id, "--make", other_game)
    assert done.exit_code == 1, done.output
    assert "differs at turn 0: agent 'player_1', observation" in done.stdout
    played = store.run("replay", store.first_id, "--make", other_game)
    assert played.exit_code == 1
    assert [line.split("\t")[-1] for line in played.stdout.splitlines()] == ["false"]
    assert "differs at turn 0: agent 'player_1'" in played.stderr


def test_a_replay_shows_each_turn(store: Store) -> None:
    turns = store.objects("replay", store.first_id)
    assert [one["number"] for one in turns] == list(range(len(turns)))
    assert all(one["equal"] for one in turns)
    assert list(turns[0]["actions"]) == ["player_1"]
    assert turns[0]["agents"] == ["player_1", "player_2"]
    assert turns[-1]["agents"] == []
    (recorded,) = store.objects("replay", store.first_id, "--from", 1, "--steps", 1, "--recorded")
    assert (recorded["number"], recorded["equal"]) == (1, None)
    assert recorded["actions"] == turns[1]["actions"]
    late = store.run("replay", store.first_id, "--from", 400)
    assert (late.exit_code, "the joint episode has" in late.stderr) == (2, True)


@pytest.mark.parametrize("run", ["duel", "hunt"])
def test_the_code_of_a_fork_works(store: Store, run: str) -> None:
    joint = store.objects("ls", "--run", run)[0]["tags"]["joint"]
    (told,) = store.objects("fork", joint, "--step", 2)
    with store.open() as jam:
        code = told["code"].partition("jam = Jamboree")[2].partition("\n")[2]
        names = {"jam": jam, "print": lambda *_: None}
        exec(code, names)
        names["env"].close()  # type: ignore[attr-defined]
        child = jam.joint_episode(names["env"].joint_id)  # type: ignore[attr-defined]
        assert (child.parent.id, child.fork_turn, len(child.turns)) == (joint, 2, 1)


def test_what_if_plays_all_agents_by_legal_actions(store: Store) -> None:
    asked = ("what-if", store.first_id, "--step", 2, "--policy", "random", "-n", 3)
    (told,) = store.objects(*asked, "--record")
    assert (told["episode_id"], told["step"]) == (store.first_id, 2)
    assert sorted(told["returns"]) == ["player_1", "player_2"]
    assert told["mean"].keys() == told["recorded_return"].keys() == told["returns"].keys()
    both = zip(*told["returns"].values(), strict=True)
    assert {sum(one) for one in both} <= {0.0}, "what one wins, the other loses: no illegal move"
    assert store.run("verify", *told["children"]).exit_code == 0
    done = store.run(*asked)
    assert done.exit_code == 0, done.output
    head, *agents = done.stdout.splitlines()
    assert head.startswith(f"joint episode {store.first_id} from turn 2 on, 3 times: ")
    assert [line.split(":")[0].strip() for line in agents] == ["player_1", "player_2"] * 2


def test_a_callable_gets_what_an_agent_sees_and_its_name(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"policy_{uuid.uuid4().hex[:8]}"
    (tmp_path / f"{name}.py").write_text(POLICY)
    monkeypatch.syspath_prepend(str(tmp_path))
    (told,) = store.objects(
        *("what-if", store.first_id, "--step", 0, "-n", 1, "--policy", f"{name}:act")
    )
    assert told["lengths"] == [9], "seven turns of the game, and two of those who have ended"


def test_a_video_has_a_frame_for_each_turn(
    store: Store, as_in_a_shell: Path, other_game: str
) -> None:
    turns = len(store.objects("replay", store.first_id, "--recorded"))
    done = store.run("video", store.first_id, "game.gif")
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    assert done.stdout == f"game.gif: {turns + 1} frames\n"
    rendered = ("--make", other_game, "--arg", "render_mode=rgb_array")
    refused = store.run("video", store.first_id, "other.gif", *rendered)
    assert refused.exit_code == 1
    first, second = refused.stderr.splitlines()
    assert "does not happen again: at turn 0, agent 'player_1', observation" in first
    assert "--unverified" in second
    assert not (as_in_a_shell / "other.gif").exists()
    best = store.run("video", "duel", "best.gif", "--best")
    assert best.exit_code == 0, best.output


def test_an_environment_of_several_agents_is_checked() -> None:
    done = CliRunner().invoke(app, ["check", TICTACTOE, "--steps", "6"])
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{TICTACTOE} plays the same again: 3 episodes, ")
    wrong = CliRunner().invoke(app, ["check", "aec:classic/tictacto-v3"])
    assert wrong.exit_code == 2
    assert "did you mean 'classic/tictactoe-v3'?" in wrong.stderr
    assert len(wrong.stderr.splitlines()) <= 2
