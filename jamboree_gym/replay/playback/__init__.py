"""A recorded episode as an environment: it gives what was recorded, and needs no simulator.

Imported by `jamboree_gym.replay`, and by `replay.video`.
"""
