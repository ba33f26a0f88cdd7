"""Values of spaces as arrays and bytes: their layout, how they are packed, where two differ.

Imports: `checked`, `compiled`, `errors`, `keys`, `wording`.
Imported by: `backup`, `connection`, `delivery`, `encoding`, `environment`, `handlers`,
    `integrations`, `journal`, `multi_agent`, `page`, `reading`, `recording`, `records`, `replay`,
    `runs`, `servers`, `store`, `tables`, `wrappers`.
"""
