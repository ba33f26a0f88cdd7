"""Where an episode came from, as it is written down once for every recorder."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from recorded_envs import CountingEnv

from jamboree_gym.environment import provenance
from jamboree_gym.environment.provenance import decode_provenance, describe
from jamboree_gym.errors import DecodeError


@pytest.fixture(autouse=True)
def fresh_git() -> Iterator[None]:
    """Git is asked once per process; here, once per test."""
    provenance._git_commit.cache_clear()
    yield
    provenance._git_commit.cache_clear()


def described(env: gym.Env[Any, Any]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(describe(env))
    return content


def test_wrappers_are_named_outermost_first_with_their_arguments() -> None:
    env = gym.make("CartPole-v1", max_episode_steps=7)
    env = gym.wrappers.TransformReward(env, abs)
    env = gym.wrappers.FrameStackObservation(env, 2, padding_type="zero")

    wrappers = described(env)["wrappers"]

    names = [wrapper["class"].rpartition(".")[2] for wrapper in wrappers]
    assert names == [
        *("FrameStackObservation", "TransformReward"),
        *("TimeLimit", "OrderEnforcing", "PassiveEnvChecker"),
    ]
    assert wrappers[0]["kwargs"] == {"stack_size": 2, "padding_type": "zero"}
    assert wrappers[1]["kwargs"] == {"func": "builtins:abs"}
    assert wrappers[2]["kwargs"] == {"max_episode_steps": 7}


def test_a_wrapper_without_arguments_has_an_empty_dict() -> None:
    (wrapper,) = described(gym.Wrapper(CountingEnv()))["wrappers"]

    assert wrapper == {"class": "gymnasium.core.Wrapper", "kwargs": {}}


def test_arguments_of_the_environment_are_kept_as_text_where_json_has_no_word_for_them() -> None:
    loop: list[Any] = []
    loop.append(loop)
    kwargs = {"length": 3, "ending": np.float32(1), "loop": loop, "long": [object()] * 1000}
    spec = gym.envs.registration.EnvSpec("Counting-v0", CountingEnv, kwargs=kwargs)
    env = CountingEnv()
    env.spec = spec

    content = described(env)

    assert content["env_kwargs"].items() >= {"length": 3, "ending": "np.float32(1.0)"}.items()
    assert content["env_kwargs"]["loop"] == "[[...]]"
    assert len(content["env_kwargs"]["long"]) == 200
    assert content["env_spec"]["id"] == "Counting-v0"
    assert content["env_spec"]["kwargs"] == {"length": 3}
    assert list(content["env_spec"]["exact"]) == ["ending"]
    assert list(content["env_spec"]["not_kept"]) == ["long", "loop"]


def test_versions_of_environment_and_wrappers_are_told() -> None:
    class Outer(gym.Wrapper[Any, Any, Any, Any]):
        __module__ = "msgspec.wrappers"  # as if that distribution brought it

    versions = described(Outer(gym.make("CartPole-v1")))["versions"]

    assert versions["gymnasium"] == gym.__version__
    assert versions["numpy"] == np.__version__
    assert {"python", "jamboree-gym", "msgspec"} <= versions.keys()


def test_a_module_belongs_to_the_distributions_that_the_standard_library_finds() -> None:
    packages = metadata.packages_distributions()  # with a list of modules, and without; a lone file
    names = ["gymnasium", "numpy", "pytest", "yaml", "typing_extensions", "jamboree_gym", "no_such"]

    found = {name: provenance._distributions_with(name) for name in names}

    assert {name: set(of) for name, of in found.items()} == {
        name: set(packages.get(name, [])) for name in names
    }


# -- git --------------------------------------------------------------------------------------


def git(*arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, and the working directory in it."""
    monkeypatch.chdir(tmp_path)
    git("init")
    (tmp_path / "train.py").write_text("lr = 1")
    git("add", "train.py")
    git("commit", "-m", "first")
    return tmp_path


def commit() -> str | None:
    found: str | None = described(CountingEnv())["git_commit"]
    return found


def test_a_clean_tree_is_its_commit(repository: Path) -> None:
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()

    assert commit() == head


def test_a_changed_tree_is_dirty(repository: Path) -> None:
    (repository / "train.py").write_text("lr = 2 # twice")

    assert str(commit()).endswith("+dirty")


def test_asking_git_writes_nothing(repository: Path) -> None:
    os.utime(repository / "train.py", (1, 1))  # `git status` would note that in its index
    before = (repository / ".git" / "index").read_bytes()

    assert "+" not in str(commit())
    assert (repository / ".git" / "index").read_bytes() == before


def test_a_file_that_git_does_not_know_is_no_change(repository: Path) -> None:
    (repository / "results.csv").write_text("1")

    assert "+" not in str(commit())


def test_git_is_asked_once_in_a_process(repository: Path) -> None:
    first = commit()
    (repository / "train.py").write_text("lr = 3")

    assert commit() == first


def test_outside_of_a_repository_there_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert commit() is None


def test_a_repository_without_a_commit_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    git("init")

    assert commit() is None


def test_a_repository_without_files_cannot_tell_whether_they_changed(repository: Path) -> None:
    git("clone", "--bare", ".", "bare.git")
    os.chdir("bare.git")

    assert str(commit()).endswith("+unchecked")


def test_without_git_there_is_no_commit(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert commit() is None


def test_a_working_directory_that_was_deleted_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    assert commit() is None


def test_a_git_that_does_not_answer_in_time_is_given_up(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = repository / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text('#!/bin/sh\ncase "$*" in *rev-parse*) echo abc;; *) exec sleep 60;; esac\n')
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(provenance, "GIT_TIMEOUT_S", 0.1)

    assert commit() == "abc+unchecked"


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b"\xff\xfe", b"[" * 9000, '{"a": 1}'.encode("utf-16")]
)
def test_what_is_no_provenance_gives_decode_error(content: bytes) -> None:
    with pytest.raises(DecodeError, match="blob: not a provenance"):
        decode_provenance(content, where="blob")
