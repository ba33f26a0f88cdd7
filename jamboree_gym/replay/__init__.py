"""Replays of episodes: played back, simulated and compared, shown, and continued from a step.

Imports: `arrays`, `checked`, `connection`, `encoding`, `environment`, `errors`, `handlers`,
    `progress`, `reading`, `recording`, `records`, `wording`, `wrappers`.
Imported by: `cli`, `multi_agent`, `page`, `reading`.
"""

from jamboree_gym.environment.env_state import Snapshotable
from jamboree_gym.replay.fork import ForkedEnv, fork
from jamboree_gym.replay.playback.replay_env import ReplayEnv
from jamboree_gym.replay.playback.replay_vector_env import ReplayVectorEnv
from jamboree_gym.replay.step_by_step import ReplayedStep, replay_steps
from jamboree_gym.replay.verification.compare import Mismatch
from jamboree_gym.replay.verification.report import Change, VerifyReport, VerifyReports
from jamboree_gym.replay.verification.reproducible import Reproducibility, check_reproducible
from jamboree_gym.replay.verification.verify import verify
from jamboree_gym.replay.video import Video, video
from jamboree_gym.replay.what_if import WhatIf, what_if

__all__ = [
    "Change",
    "ForkedEnv",
    "Mismatch",
    "ReplayEnv",
    "ReplayVectorEnv",
    "ReplayedStep",
    "Reproducibility",
    "Snapshotable",
    "VerifyReport",
    "VerifyReports",
    "Video",
    "WhatIf",
    "check_reproducible",
    "fork",
    "replay_steps",
    "verify",
    "video",
    "what_if",
]
