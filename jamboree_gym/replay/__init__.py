"""Episodes again: re-simulated and compared."""

from jamboree_gym.replay.compare import Mismatch
from jamboree_gym.replay.report import Change, VerifyReport, VerifyReports
from jamboree_gym.replay.verification import verify

__all__ = ["Change", "Mismatch", "VerifyReport", "VerifyReports", "verify"]
