"""Which episodes: by their summaries, by names that users type, and in which order.

Imports: `arrays`, `connection`, `encoding`, `environment`, `errors`, `records`, `store`, `wording`.
Imported by: `backup`, `cli`, `integrations`, `jamboree`, `page`, `reading`, `runs`.
"""
