"""Explicit storage procedures around one log each, following a log, and side logs of an episode.

Imports `connection` and below. `reading`, `recording` and `runs` import it.
"""
