"""Stored episodes: one, many at once, found by their summaries, followed, compared.

Imports: `arrays`, `connection`, `delivery`, `encoding`, `environment`, `errors`, `handlers`,
    `progress`, `records`, `store`, `tables`.
Imported by: `backup`, `cli`, `integrations`, `jamboree`, `recording`, `replay`, `runs`, `wrappers`.
"""
