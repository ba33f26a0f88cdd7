"""Wrapper classes that a replay may build because they only compute with their arguments.

Those of other packages are built only if their module is already loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any, Final

import gymnasium as gym
from gymnasium import wrappers as of_gymnasium

from jamboree_gym.wrappers import RecentTransactionsObservation

__all__ = ["buildable", "learn_modules", "load_if_known", "loaded_modules", "module_to_import"]

# Wrappers of Gymnasium that only compute with their arguments. Not among them: ArrayConversion,
# whose arguments are modules; RecordVideo, which writes files; and wrappers with a function as
# argument, which cannot be stored.
_OF_GYMNASIUM: Final = (
    *("AddRenderObservation", "AddWhiteNoise", "AtariPreprocessing", "Autoreset", "ClipAction"),
    *("ClipReward", "DelayObservation", "DiscretizeAction", "DiscretizeObservation"),
    *("DtypeObservation", "FilterObservation", "FlattenObservation", "FrameStackObservation"),
    *("GrayscaleObservation", "MaxAndSkipObservation", "NormalizeObservation", "NormalizeReward"),
    *("ObstructView", "OrderEnforcing", "PassiveEnvChecker", "RepeatAction", "RescaleAction"),
    *("RescaleObservation", "ReshapeObservation", "ResizeObservation", "StickyAction"),
    *("TimeAwareObservation", "TimeLimit"),
)
_OF_OTHERS: Final = {
    # These load jax and torch.
    "gymnasium.wrappers.jax_to_numpy": ("JaxToNumpy",),
    "gymnasium.wrappers.jax_to_torch": ("JaxToTorch",),
    "gymnasium.wrappers.numpy_to_torch": ("NumpyToTorch",),
    "highway_env.envs.common.abstract": ("MultiAgentWrapper",),
    "minigrid.wrappers": (
        *("ActionBonus", "DictObservationSpaceWrapper", "DirectionObsWrapper", "FlatObsWrapper"),
        *("FullyObsWrapper", "ImgObsWrapper", "NoDeath", "OneHotPartialObsWrapper"),
        *("PositionBonus", "RGBImgObsWrapper", "RGBImgPartialObsWrapper", "ReseedWrapper"),
        *("StochasticActionWrapper", "SymbolicObsWrapper", "ViewSizeWrapper"),
    ),
    "stable_baselines3.common.atari_wrappers": (
        *("AtariWrapper", "ClipRewardEnv", "EpisodicLifeEnv", "FireResetEnv", "MaxAndSkipEnv"),
        *("NoopResetEnv", "StickyActionEnv", "WarpFrame"),
    ),
    "supersuit.generic_wrappers.frame_skip": ("frame_skip_gym",),
}

_LOADED_BY_PARENT: Final = set[str]()


def learn_modules(modules: Iterable[str]) -> None:
    """Say which of the modules the process has loaded that this one works for."""
    _LOADED_BY_PARENT.update(modules)


def load_if_known(entry_point: Any) -> None:
    """Load the module of a wrapper, where the process that this one works for has loaded it.

    Not before: Stable-Baselines3, for example, brings torch.
    """
    module = module_to_import(entry_point)
    if module in _LOADED_BY_PARENT:
        import_module(module)


def buildable() -> list[Any]:
    """The classes that are loaded and may be built."""
    found = (vars(of_gymnasium).get(name) for name in _OF_GYMNASIUM)  # older releases lack some
    return [
        RecentTransactionsObservation,
        *(one for one in found if one is not None),
        *(one for module in loaded_modules() for one in _loaded(module)),
    ]


def loaded_modules() -> list[str]:
    """The modules of other packages whose wrappers may be built here."""
    return [module for module in _OF_OTHERS if module in sys.modules]


def module_to_import(entry_point: Any) -> str | None:
    """The module that has to be loaded for a wrapper that may be built; None if it is another."""
    for module, names in _OF_OTHERS.items():
        if module not in sys.modules and entry_point in [f"{module}:{name}" for name in names]:
            return module
    return None


def _loaded(module: str) -> Iterator[Any]:
    """The classes of a module, as far as this version has them."""
    for name in _OF_OTHERS[module]:
        found = vars(sys.modules[module]).get(name)
        if isinstance(found, type) and issubclass(found, gym.Wrapper):
            yield found
