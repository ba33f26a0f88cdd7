"""Handlers, which store records in one log each; following a log; side logs of an episode.

Imports `connection` and below. `reading`, `recording` and `runs` import it.
"""
