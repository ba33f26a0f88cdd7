"""A run in the store: its sessions, metrics and checkpoints, without anything that trains."""

from __future__ import annotations

import io
import os
import re
import struct
import zipfile
from collections.abc import Callable
from statistics import median
from typing import Any

import gymnasium as gym
import pytest
from stored import bytes_sent
from warm import run_warm

from jamboree_gym import Jamboree
from jamboree_gym.errors import CheckpointNotFound, DecodeError, InvalidArgument, RunNotFound
from jamboree_gym.handlers.db_handler import DBHandler
from jamboree_gym.runs.checkpoints import CheckpointHandler
from jamboree_gym.runs.metrics import MetricHandler
from jamboree_gym.runs.old_checkpoints import OldCheckpoints
from jamboree_gym.runs.sessions import SessionHandler

LARGE = 17 << 20


def put(jam: Jamboree, content: bytes, **more: Any) -> None:
    """A checkpoint of run `r`."""
    known = {"timesteps": 64, "policy_version": 2, "session": "s", **more}
    CheckpointHandler(jam, "r").put(content, **known)


# -- checkpoints --------------------------------------------------------------------------------


def test_checkpoints_are_listed_without_their_content(jam: Jamboree) -> None:
    put(jam, b"first", timesteps=64, policy_version=2, algorithm="a.PPO")
    put(jam, b"second!", timesteps=128, policy_version=4, normaliser=b"beside")
    first, second = jam.run("r").checkpoints()

    assert (first.number, first.timesteps, first.policy_version) == (0, 64, 2)
    assert (first.size, first.session, first.algorithm) == (5, "s", "a.PPO")
    assert first.at < second.at
    assert (first.content(), first.normaliser()) == (b"first", None)
    assert (second.content(), second.normaliser()) == (b"second!", b"beside")


def test_each_search_for_old_checkpoints_reads_what_is_new(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, indices = DBHandler._read_from, list[int]()

    def noted(handler: DBHandler, index: int) -> Any:
        found = read(handler, index)
        indices.extend(record["index"] for record in found[0])
        return found

    monkeypatch.setattr(DBHandler, "_read_from", noted)
    old = OldCheckpoints(CheckpointHandler(jam, "r"), newest=2)
    for number in range(5):
        put(jam, b"content", is_final=number == 1)
    assert [one.number for one in old.found()] == [0, 2]
    old.found()[0].delete()
    jam.run("r").checkpoints()[-1].delete()  # as a user may
    put(jam, b"content")

    indices.clear()
    assert [one.number for one in old.found()] == [2]
    assert sorted(indices) == [0, 1, 5]  # two deletions, a checkpoint
    assert [one.number for one in jam.run("r").checkpoints()] == [1, 2, 3, 5]


def test_old_checkpoints_of_a_run_that_has_begun_anew_are_its_own(jam: Jamboree) -> None:
    old = OldCheckpoints(CheckpointHandler(jam, "r"), newest=1)
    for _ in range(3):
        put(jam, b"content")
    assert [one.number for one in old.found()] == [0, 1]

    CheckpointHandler(jam, "r").delete()
    assert old.found() == []
    for _ in range(5):
        put(jam, b"content")
    assert [one.number for one in old.found()] == [0, 1, 2, 3]


@pytest.mark.parametrize("run", ["a:b/{c}", "with space", "ä"])
def test_runs_do_not_meet(jam: Jamboree, run: str) -> None:
    put(jam, b"elsewhere")
    CheckpointHandler(jam, run).put(b"here", timesteps=1, policy_version=1, session="s")

    assert [one.content() for one in jam.run(run).checkpoints()] == [b"here"]


def test_a_list_of_checkpoints_prints_a_line_for_each(jam: Jamboree) -> None:
    put(jam, b"x" * 2**20, timesteps=2048)
    (one,) = jam.run("r").checkpoints()
    assert re.match(r"<checkpoint 0: .* after 2,048 timesteps, .* updates, 1\.0 MiB, 20", repr(one))


def test_a_large_checkpoint_goes_through_redis_and_mongodb(jam: Jamboree) -> None:
    content = os.urandom(LARGE)
    put(jam, content)
    jam.flush()
    assert jam.run("r").checkpoint().content() == content

    jam.backup.flush()
    assert jam.backup.verify()
    jam.redis.flushdb()
    assert jam.run("r").checkpoint().content() == content


def test_a_checkpoint_is_asked_for_by_what_is_known_of_it(jam: Jamboree) -> None:
    put(jam, b"a", policy_version=2, session="s1")
    put(jam, b"b", policy_version=4, session="s1")
    put(jam, b"c", policy_version=2, session="s2")
    run = jam.run("r")

    assert run.checkpoint().content() == b"c"
    assert run.checkpoint(1).content() == b"b"
    assert run.checkpoint(policy_version=2).content() == b"c"
    assert run.checkpoint(policy_version=2, session="s1").content() == b"a"
    with pytest.raises(CheckpointNotFound, match=r"policy_version=3; it has 0 \(2 updates\), 1 "):
        run.checkpoint(policy_version=3)
    with pytest.raises(CheckpointNotFound, match="no checkpoint at all: JamboreeCallback"):
        jam.run("nothing", wait=True).checkpoint()


class SAC:
    """Loads what it is given, as the class of that name does."""

    @classmethod
    def load(cls, content: Any, env: Any = None) -> Any:
        return cls.__name__, content.read()


class MySAC(SAC):
    pass


@pytest.mark.parametrize(
    ("algorithm", "asked"),
    [
        ("stable_baselines3.sac.sac.SAC", SAC),  # another class of the same name
        ("stable_baselines3.sac.sac.SAC", MySAC),
        (f"{__name__}.MySAC", SAC),  # what it was saved of is a kind of what is asked for
        ("not_loaded.Own", SAC),  # who knows
        ("", SAC),
    ],
)
def test_a_checkpoint_is_loaded_by_its_algorithm_and_its_relatives(
    jam: Jamboree, algorithm: str, asked: type[Any]
) -> None:
    put(jam, b"a", algorithm=algorithm)
    assert jam.run("r").checkpoint().load(asked) == (asked.__name__, b"a")


@pytest.mark.parametrize(
    "algorithm", ["sb3_contrib.not.loaded.ARS", f"{__name__}.CheckpointHandler"]
)
def test_a_checkpoint_of_another_algorithm_names_both(jam: Jamboree, algorithm: str) -> None:
    put(jam, b"a", algorithm=algorithm)
    with pytest.raises(
        InvalidArgument, match=r"^checkpoint 0 is of (ARS|C.*), you asked for SAC: "
    ):
        jam.run("r").checkpoint().load(SAC)


def test_a_deleted_checkpoint_is_gone_and_its_number_is_not_given_again(jam: Jamboree) -> None:
    put(jam, b"a")
    put(jam, b"b")
    run = jam.run("r")
    gone = run.checkpoint()
    gone.delete()
    put(jam, b"c")

    assert [one.number for one in run.checkpoints()] == [0, 2]
    with pytest.raises(CheckpointNotFound, match="holds 0 of 1 bytes"):
        gone.content()


def test_the_newest_checkpoint_is_found_without_reading_the_others(
    jam: Jamboree, open_jamboree: Callable[..., Jamboree]
) -> None:
    run = open_jamboree().run("r")
    sent = []
    for number in range(40):
        put(jam, b"content")
        jam.flush()
        sent.append(bytes_sent_for(jam, run.checkpoint))
        assert run.checkpoint().number == number

    sent_for_all = bytes_sent_for(jam, run.checkpoints)
    assert len(run.checkpoints()) == 40
    # The median: a copier reads now and then, too.
    assert median(sent[20:]) < sent_for_all / 4


def bytes_sent_for(jam: Jamboree, call: Callable[[], object]) -> int:
    """By Redis, without what the counting costs."""
    before, start = bytes_sent(jam), bytes_sent(jam)
    call()
    return bytes_sent(jam) - start - (start - before)


def test_the_newest_checkpoint_is_the_newest_that_is_whole(jam: Jamboree) -> None:
    run = jam.run("r")
    for content in (b"a", bytes(9 << 20), b"c"):
        put(jam, content)

    run.checkpoint().delete()
    assert run.checkpoint().number == 1
    handler = CheckpointHandler(jam, "r").content(run.checkpoint()._content.name)
    handler.delete()
    handler.save({"content": bytes(4 << 20)})
    assert run.checkpoint().number == 0
    run.checkpoint().delete()
    assert run.checkpoint().number == 1  # its content() says what is missing


def test_who_sees_a_checkpoint_finds_it_whole(open_jamboree: Callable[..., Jamboree]) -> None:
    learner, actor = open_jamboree(flush_interval_s=3600.0), open_jamboree()
    put(learner, bytes(9 << 20))
    assert len(learner.run("r").checkpoints()) == 1  # a read delivers

    assert actor.run("r").checkpoint().content() == bytes(9 << 20)


def test_a_checkpoint_of_which_a_part_is_missing_is_told(jam: Jamboree) -> None:
    put(jam, bytes(9 << 20))
    checkpoint = jam.run("r").checkpoint()
    handler = CheckpointHandler(jam, "r").content(checkpoint._content.name)
    handler.delete()
    handler.save({"content": bytes(4 << 20)})

    with pytest.raises(CheckpointNotFound, match="holds 4194304 of 9437184 bytes"):
        checkpoint.content()


def test_bytes_that_are_not_those_that_were_saved_are_told(jam: Jamboree) -> None:
    put(jam, b"right")
    checkpoint = jam.run("r").checkpoint()
    handler = CheckpointHandler(jam, "r").content(checkpoint._content.name)
    handler.delete()
    handler.save({"content": b"wrong"})

    with pytest.raises(DecodeError, match="not the bytes that were saved"):
        checkpoint.content()


@pytest.mark.parametrize("content", ["text", None, 3])
def test_a_part_that_is_no_bytes_is_told(jam: Jamboree, content: Any) -> None:
    put(jam, b"right")
    checkpoint = jam.run("r").checkpoint()
    handler = CheckpointHandler(jam, "r").content(checkpoint._content.name)
    handler.delete()
    handler.save({"content": content})

    with pytest.raises(DecodeError, match="at index 0: no part of a checkpoint"):
        checkpoint.content()


@pytest.mark.parametrize("record", [{}, {"timesteps": 1}, {"content": [1], "normaliser": None}])
def test_what_tells_of_no_checkpoint_is_told(jam: Jamboree, record: dict[str, Any]) -> None:
    CheckpointHandler(jam, "r").save(record)

    with pytest.raises(DecodeError, match="not a checkpoint"):
        jam.run("r").checkpoints()


# -- sessions -----------------------------------------------------------------------------------


def begin(jam: Jamboree, session: str = "s", **more: Any) -> None:
    known = {"timesteps": 0, "resumed_from": None, "steps": {}, "info": {"algorithm": "PPO"}}
    SessionHandler(jam, "r").begin(session, **{**known, **more})


def test_a_run_that_nobody_has_trained_has_no_history(jam: Jamboree) -> None:
    run = jam.run("r", wait=True)
    assert run.history == []
    assert run.checkpoints() == []
    assert run.metrics().num_rows == 0
    with pytest.raises(RunNotFound, match=r"callback=JamboreeCallback\(jam\)"):
        _ = run.info
    with pytest.raises(InvalidArgument, match="name=3: give a text"):
        jam.run(3)  # type: ignore[arg-type]


def test_a_session_is_one_line(jam: Jamboree) -> None:
    begin(jam)
    SessionHandler(jam, "r").end("s", "finished", timesteps=99)
    begin(jam, "t", timesteps=64, resumed_from=3)
    finished, running = jam.run("r").history

    assert str(finished).endswith(": timesteps 0 to 99: finished")
    assert str(running).endswith("to now: timesteps 64 to 64, from checkpoint 3: running")
    assert jam.run("r").info["resumed_from"] == 3
    assert jam.run("r").info["algorithm"] == "PPO"


def test_steps_of_an_episode_that_went_on_before_are_not_counted(jam: Jamboree) -> None:
    env = jam.record(gym.make("CartPole-v1"), run="r")
    env.reset(seed=1)
    for action in (0, 1, 0):
        env.step(action)
    begin(jam, timesteps=3, steps={env.episode_id: 3})
    env.step(1)
    env.reset(seed=2)
    env.step(0)

    (session,) = jam.run("r").history
    assert (session.timesteps_from, session.timesteps_to) == (3, 5)


@pytest.mark.parametrize("record", [{}, {"event": "began"}, {"event": "began", "session": []}])
def test_what_is_no_session_is_told(jam: Jamboree, record: dict[str, Any]) -> None:
    SessionHandler(jam, "r").save(record)

    with pytest.raises(DecodeError, match="not the sessions of a run"):
        _ = jam.run("r").history


# -- metrics ------------------------------------------------------------------------------------


def test_metrics_are_a_table(jam: Jamboree) -> None:
    handler = MetricHandler(jam, "r")
    handler.put(10, session="s", values={"train/loss": 0.5, "at": 1, "note": "x"})
    handler.put(20, session="s", values={"eval/mean_reward": 7.0})
    table = jam.run("r").metrics()

    assert table.column_names[:3] == ["timesteps", "at", "session"]
    assert table["timesteps"].to_pylist() == [10, 20]
    assert table["train/loss"].to_pylist() == [0.5, None]
    assert table["eval/mean_reward"].to_pylist() == [None, 7.0]
    assert table["note"].to_pylist() == ["x", None]
    assert table["at"].to_pylist() != [1, None]


@pytest.mark.parametrize("record", [{}, {"timesteps": "x", "session": "s", "values": {}}])
def test_what_is_no_metric_is_told(jam: Jamboree, record: dict[str, Any]) -> None:
    MetricHandler(jam, "r").save(record)

    with pytest.raises(DecodeError, match="not the metrics of a run"):
        jam.run("r").metrics()


# -- other processes ----------------------------------------------------------------------------

FORKS = """
import os, sys
from jamboree_gym import Jamboree
jam = Jamboree(sys.argv[1], namespace=sys.argv[2])
jam._connection.add_close_callback(
    lambda: print("closed by", "parent" if os.getpid() == parent else "child")
)
parent = os.getpid()
child = os.fork()
if child == 0:
    jam.close()
    os._exit(0)
os.waitpid(child, 0)
jam.close()
"""


def test_what_is_to_be_said_before_closing_is_said_by_its_own_process(jam: Jamboree) -> None:
    done = run_warm(FORKS, jam._connection.redis_url, jam._connection.keyspace.namespace)

    assert done.stdout.split("\n") == ["closed by parent", ""], done.stderr


READS = """
import sys
from jamboree_gym import Jamboree
with Jamboree(sys.argv[1], namespace=sys.argv[2]) as jam:
    run = jam.run("r")
    print(len(run.checkpoints()), len(run.history), run.metrics().num_rows, run.info["algorithm"])
    print([name for name in ("torch", "stable_baselines3") if name in sys.modules])
"""


def test_reading_a_run_loads_no_torch(jam: Jamboree) -> None:
    put(jam, b"a")
    begin(jam)
    MetricHandler(jam, "r").put(1, session="s", values={"loss": 1.0})
    jam.flush()
    done = run_warm(READS, jam._connection.redis_url, jam._connection.keyspace.namespace)

    assert done.stdout.split("\n") == ["1 1 1 PPO", "[]", ""], done.stderr


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return content.getvalue()


def overlapping(count: int) -> bytes:
    """A zip whose list names one and the same megabyte so many times."""
    once = zipped({"a.pth": bytes(2**20)})
    at = once.index(b"PK\x01\x02")
    entry, end = once[at:-22], bytearray(once[-22:])
    struct.pack_into("<HHI", end, 8, count, count, count * len(entry))
    return once[:at] + entry * count + bytes(end)


BOMBS = {
    "compressed": zipped({"policy.pth": bytes(2**20)}, zipfile.ZIP_DEFLATED),
    "compressed weights": zipped(
        {"policy.pth": zipped({"data/0": bytes(2**20)}, zipfile.ZIP_DEFLATED)}
    ),
    "overlapping": overlapping(100),
    "no zip": b"PK",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_weights_that_would_grow_are_not_loaded(jam: Jamboree, bomb: str) -> None:
    class Model:
        device = "cpu"

        def set_parameters(self, *_: Any, **__: Any) -> None:
            raise AssertionError("it was given to the loader")

    put(jam, BOMBS[bomb])

    with pytest.raises(DecodeError, match="checkpoint 0 is not loaded"):
        jam.run("r").checkpoint().load_into(Model())
