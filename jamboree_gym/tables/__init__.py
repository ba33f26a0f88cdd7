"""Transitions and summaries as columns: Arrow tables, vaex frames, conditions on columns.

Imports: `arrays`, `encoding`, `errors`, `records`, `wording`.
Imported by: `cli`, `integrations`, `page`, `reading`, `recording`, `runs`.
"""
