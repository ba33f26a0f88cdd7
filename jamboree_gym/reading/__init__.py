"""Stored episodes: one, many at once, found by their summaries, followed, compared.

Imports `handlers`, `tables` and below. Replay, runs, wrappers and integrations import it.
"""
