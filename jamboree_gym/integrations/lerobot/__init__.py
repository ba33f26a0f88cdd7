"""Recorded episodes as a LeRobot data set; needs neither LeRobot nor torch.

Imports: `arrays`, `checked`, `encoding`, `errors`, `progress`, `reading`.
Imported by: `cli`.
"""

from jamboree_gym.integrations.lerobot.dataset import to_lerobot

__all__ = ["to_lerobot"]
