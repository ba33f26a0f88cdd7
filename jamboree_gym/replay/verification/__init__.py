"""Simulating episodes again and comparing them with what was recorded.

Imports `replay.rebuilding`. `replay.video` and `jamboree_gym.replay` import it.
"""
