"""Every step of a Gymnasium environment, kept: traced to Redis, replayed, backed up to MongoDB."""

from jamboree_gym.handlers.db_handler import DBHandler
from jamboree_gym.jamboree import Jamboree
from jamboree_gym.recording.episode_handler import EpisodeHandler
from jamboree_gym.records import EpisodeData, StepData
from jamboree_gym.timing import timecontext

__version__ = "0.1.0"

__all__ = ["DBHandler", "EpisodeData", "EpisodeHandler", "Jamboree", "StepData", "timecontext"]
