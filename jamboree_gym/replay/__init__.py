"""Episodes again: played back, or simulated again and compared."""

from jamboree_gym.replay.replay_env import ReplayEnv
from jamboree_gym.replay.replay_vector_env import ReplayVectorEnv
from jamboree_gym.replay.resimulate import Mismatch, VerifyReport, verify

__all__ = ["Mismatch", "ReplayEnv", "ReplayVectorEnv", "VerifyReport", "verify"]
