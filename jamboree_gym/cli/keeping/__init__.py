"""Commands that keep a store in order: servers, backup, exports, deletion, what is wrong.

Imports: `backup`, `connection`, `diagnosis`, `errors`, `integrations`, `jamboree`, `progress`,
    `reading`, `runs`, `servers`, `store`, `wording`.
Imported by: `cli`.
"""
