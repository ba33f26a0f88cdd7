"""Algorithms by name, and a training from its beginning: what `jamboree-gym train` does."""

from __future__ import annotations

import importlib
from contextlib import suppress
from typing import Any

import gymnasium as gym
import stable_baselines3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.preprocessing import is_image_space

from jamboree_gym.connection import HasConnection
from jamboree_gym.errors import InvalidArgument
from jamboree_gym.integrations.sb3.training.callback import JamboreeCallback
from jamboree_gym.integrations.sb3.vec_record import VecRecordEpisodes
from jamboree_gym.progress import Progress
from jamboree_gym.wording import did_you_mean

__all__ = ["algorithm_named", "train"]

_CONTRIB = "sb3_contrib"


def algorithm_named(name: str) -> type[BaseAlgorithm]:
    """An algorithm of Stable-Baselines3, or of sb3-contrib if that is installed.

    Args:
        name: `ppo`, `PPO`, or the full name of its class, of which the last part counts. Nothing is
            imported by that name.

    Raises:
        InvalidArgument: There is none of this name; names those that there are.
    """
    known = {one.upper(): kind for one, kind in _algorithms().items()}
    wanted = name.rpartition(".")[2].upper()
    if wanted not in known:
        names = sorted(one.lower() for one in known)
        near = did_you_mean(name, names)
        raise InvalidArgument(f"no algorithm {name!r}{near}; there are {', '.join(names)}")
    return known[wanted]


def _algorithms() -> dict[str, type[BaseAlgorithm]]:
    modules = [stable_baselines3]
    with suppress(ImportError):
        modules.append(importlib.import_module(_CONTRIB))
    return {
        name: kind
        for module in modules
        for name, kind in vars(module).items()
        if isinstance(kind, type) and issubclass(kind, BaseAlgorithm)
    }


def train(
    jam: HasConnection,
    env_id: str,
    algorithm: str,
    timesteps: int,
    *,
    arguments: dict[str, Any] | None = None,
    run: str | None = None,
    seed: int | None = None,
    envs: int = 1,
    progress: Progress | None = None,
) -> str:
    """Train with the defaults of Stable-Baselines3, on the CPU, and record all of it.

    Args:
        jam: Where it is recorded.
        env_id: Of the environment.
        algorithm: As for `algorithm_named`.
        timesteps: How many.
        arguments: For `gymnasium.make`.
        run: Name of the run; None = a new one.
        seed: Of the training; None = a random one.
        envs: Number of environments, in one process.
        progress: Called with the number of timesteps, and with how many there will be.

    Returns:
        The name of the run.

    Raises:
        InvalidArgument: There is no such algorithm, or it cannot be trained on this environment.
    """
    kind: Any = algorithm_named(algorithm)
    try:
        plain = make_vec_env(env_id, n_envs=envs, seed=seed, env_kwargs=arguments or {})
    except Exception as error:
        raise InvalidArgument(f"{env_id} cannot be made: {error}") from error
    recorded = VecRecordEpisodes(plain, jam, run=run)
    try:
        policy = policy_for(plain.observation_space)
        try:
            model = kind(policy, recorded, seed=seed, device="cpu")
        except (AssertionError, TypeError, ValueError) as error:
            text = str(error).splitlines()[0] if str(error) else "it refuses it"
            raise InvalidArgument(
                f"{kind.__name__} cannot be trained on {env_id}: {text}"
            ) from error
        callback = JamboreeCallback(jam, verbose=0)
        shown = [] if progress is None else [_Shown(progress, timesteps)]
        model.learn(timesteps, callback=[callback, *shown])
        return callback.run
    finally:
        recorded.close()


def policy_for(space: gym.Space[Any]) -> str:
    """Name of the policy that fits what is observed."""
    if isinstance(space, gym.spaces.Dict):
        return "MultiInputPolicy"
    return "CnnPolicy" if is_image_space(space) else "MlpPolicy"


class _Shown(BaseCallback):
    def __init__(self, progress: Progress, timesteps: int) -> None:
        super().__init__()
        self._progress, self._wanted = progress, timesteps

    def _on_step(self) -> bool:
        self._progress(min(self.num_timesteps, self._wanted), self._wanted)
        return True
