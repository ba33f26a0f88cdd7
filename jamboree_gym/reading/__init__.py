"""Stored episodes: one, many at once, found by their summaries, followed, compared.

Imports: `arrays`, `checked`, `compiled`, `connection`, `delivery`, `encoding`,
    `environment`, `errors`, `handlers`, `journal`, `progress`, `records`, `replay`, `store`,
    `tables`, `wording`.
Imported by: `backup`, `cli`, `integrations`, `jamboree`, `multi_agent`, `page`, `recording`,
    `replay`, `runs`, `wrappers`.
"""
