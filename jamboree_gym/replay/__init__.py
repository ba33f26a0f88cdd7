"""Episodes again: re-simulated, compared and shown."""

from jamboree_gym.replay.compare import Mismatch
from jamboree_gym.replay.report import Change, VerifyReport, VerifyReports
from jamboree_gym.replay.verification import verify
from jamboree_gym.replay.video import video

__all__ = ["Change", "Mismatch", "VerifyReport", "VerifyReports", "verify", "video"]
