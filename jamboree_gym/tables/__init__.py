"""Transitions and summaries as columns: Arrow tables, vaex frames, conditions on columns.

Imports `encoding` and below. `reading` and the exports import it.
"""
