"""Rebuilds the environment of an episode, and brings it into a recorded state.

Imported by the other rooms of `replay`.
"""
