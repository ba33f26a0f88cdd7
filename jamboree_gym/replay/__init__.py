"""Episodes again: re-simulated and compared."""

from jamboree_gym.replay.resimulate import Mismatch, VerifyReport, verify

__all__ = ["Mismatch", "VerifyReport", "verify"]
