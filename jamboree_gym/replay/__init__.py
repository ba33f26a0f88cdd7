"""Episodes again: re-simulated and compared, and gone on with from any of their steps."""

from jamboree_gym.env_state import Snapshotable
from jamboree_gym.replay.fork import ForkedEnv, fork
from jamboree_gym.replay.resimulate import Mismatch, VerifyReport, verify
from jamboree_gym.replay.what_if import WhatIf, what_if

__all__ = [
    "ForkedEnv",
    "Mismatch",
    "Snapshotable",
    "VerifyReport",
    "WhatIf",
    "fork",
    "verify",
    "what_if",
]
