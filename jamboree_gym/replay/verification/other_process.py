"""Plays episodes in a new process: `python -m jamboree_gym.replay.verification.other_process`."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym

from jamboree_gym.arrays.values import decode_value, encode_value
from jamboree_gym.errors import ReplayError
from jamboree_gym.replay.verification.rollouts import Play, Rollout, play

__all__ = ["play_elsewhere"]

TIMEOUT_S = 600
_FIELDS = ("seed", "rng_state", "actions", "rows")
_KEPT = ("PATH", "HOME", "TMPDIR", "TEMP", "TMP", "DISPLAY", "SYSTEMROOT", "XDG_RUNTIME_DIR")
_KEPT_BEGINNINGS = ("PYTHON", "LD_", "DYLD_", "MUJOCO", "SDL", "LC_", "LANG", "COVERAGE")


def play_elsewhere(
    env_id: str,
    arguments: Mapping[str, Any],
    modules: Sequence[str],
    like: Sequence[Rollout],
    *,
    steps: int,
    hash_seed: int,
    is_bare: bool = False,
) -> list[Rollout]:
    """Play the same episodes in a new process.

    Args:
        env_id: Of the environment.
        arguments: For `gymnasium.make`.
        modules: Imported first.
        like: The episodes, with their actions.
        steps: Most steps of an episode.
        hash_seed: Salt of the hashes of texts there.
        is_bare: Whether the process gets only the environment variables that Python needs.

    Raises:
        ReplayError: The process fails; says why.
    """
    job = {
        "env_id": env_id,
        "arguments": dict(arguments),
        "modules": list(modules),
        "steps": steps,
        "like": [_as_dict(one) for one in like],
    }
    variables = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    if is_bare:
        variables = {name: one for name, one in variables.items() if _is_kept(name)}
    variables["PYTHONPATH"] = os.pathsep.join([one or os.getcwd() for one in sys.path])
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "job"), Path(folder, "answer")
        asked.write_bytes(encode_value(job))
        try:
            done = subprocess.run(
                [sys.executable, "-m", __name__, str(asked), str(answered)],
                env=variables,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as error:
            raise ReplayError(
                f"it cannot be played in a new process: that takes longer than {TIMEOUT_S} s. Ask "
                "for fewer steps"
            ) from error
        if done.returncode or not answered.exists():
            reason = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
            raise ReplayError(f"it cannot be played in a new process: {reason}")
        found = decode_value(answered.read_bytes(), where="a new process")
    return [Rollout(**one) for one in found]


def _is_kept(name: str) -> bool:
    return name in _KEPT or name.startswith(_KEPT_BEGINNINGS)


def _as_dict(rollout: Rollout) -> dict[str, Any]:
    return {name: getattr(rollout, name) for name in _FIELDS}


def _main(asked: Path, answered: Path) -> None:
    job = decode_value(asked.read_bytes(), where=str(asked))
    for name in job["modules"]:
        importlib.import_module(name)
    what = Play(lambda: gym.make(job["env_id"], **job["arguments"]), job["steps"])
    found = play(what, [Rollout(**one) for one in job["like"]])
    answered.write_bytes(encode_value([_as_dict(one) for one in found]))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
