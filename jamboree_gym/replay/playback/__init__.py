"""A recorded episode as an environment that returns recorded values and needs no simulator.

Imported by `jamboree_gym.replay`, and by `replay.video`.
"""
