"""What is recorded by Stable-Baselines3, and what it trains from.

Imports: `arrays`, `checked`, `connection`, `encoding`, `environment`, `errors`, `keys`, `progress`,
    `reading`, `recording`, `records`, `runs`, `wording`, `wrappers`.
Imported by: `cli`, `jamboree`, `runs`.
"""

from jamboree_gym.errors import MissingExtra

try:
    import stable_baselines3  # noqa: F401 - before what needs it
except ImportError as error:
    raise MissingExtra("this needs Stable-Baselines3: pip install 'jamboree-gym[sb3]'") from error

from jamboree_gym.integrations.sb3.buffers.live_replay import (
    JamboreeReplayBuffer,
    PrioritizedSamples,
    Unsaved,
)
from jamboree_gym.integrations.sb3.buffers.replay_buffers import (
    fill_replay_buffer,
    to_replay_buffer,
)
from jamboree_gym.integrations.sb3.buffers.trajectories import Trajectory, to_trajectories
from jamboree_gym.integrations.sb3.training.callback import JamboreeCallback
from jamboree_gym.integrations.sb3.vec_record import VecRecordEpisodes

__all__ = [
    "JamboreeCallback",
    "JamboreeReplayBuffer",
    "PrioritizedSamples",
    "Trajectory",
    "Unsaved",
    "VecRecordEpisodes",
    "fill_replay_buffer",
    "to_replay_buffer",
    "to_trajectories",
]
