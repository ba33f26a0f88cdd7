"""Stable-Baselines3's buffers, filled with what was recorded, before training or live.

Imported by `jamboree_gym.integrations.sb3` and its room `training`.
"""
