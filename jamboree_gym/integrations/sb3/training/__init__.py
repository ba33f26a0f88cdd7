"""One session of training with Stable-Baselines3: the callback, what it keeps, how to resume.

Imported by `jamboree_gym.integrations.sb3` and by `runs`.
"""
