"""Several agents in one environment: PettingZoo's AEC and Parallel environments.

Imports: `arrays`, `checked`, `connection`, `encoding`, `environment`, `errors`, `handlers`,
    `process_life`, `progress`, `reading`, `recording`, `records`, `replay`, `wording`, `wrappers`.
Imported by: `cli`, `jamboree`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from jamboree_gym.multi_agent.joint_episode import JointEpisode, Turn, joint_episodes

if TYPE_CHECKING:
    from jamboree_gym.multi_agent.joint_fork import JointFork, fork
    from jamboree_gym.multi_agent.joint_video import video
    from jamboree_gym.multi_agent.joint_what_if import JointWhatIf, what_if
    from jamboree_gym.multi_agent.recording.record_aec import RecordAEC
    from jamboree_gym.multi_agent.recording.record_parallel import RecordParallel
    from jamboree_gym.multi_agent.replay_envs import ReplayAEC, ReplayParallel
    from jamboree_gym.multi_agent.verification import JointReport, verify

__all__ = [
    "JointEpisode",
    "JointFork",
    "JointReport",
    "JointWhatIf",
    "RecordAEC",
    "RecordParallel",
    "ReplayAEC",
    "ReplayParallel",
    "Turn",
    "fork",
    "joint_episodes",
    "verify",
    "video",
    "what_if",
]

# Imported when they are first used: some need PettingZoo, the others what replays need.
_MODULES = {
    "JointFork": "joint_fork",
    "JointReport": "verification",
    "JointWhatIf": "joint_what_if",
    "RecordAEC": "recording.record_aec",
    "RecordParallel": "recording.record_parallel",
    "ReplayAEC": "replay_envs",
    "ReplayParallel": "replay_envs",
    "fork": "joint_fork",
    "verify": "verification",
    "video": "joint_video",
    "what_if": "joint_what_if",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = found
    return found
