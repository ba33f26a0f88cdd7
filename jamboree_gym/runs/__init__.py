"""A run: its sessions, its metrics, its checkpoints.

Imports: `arrays`, `checked`, `connection`, `encoding`, `errors`, `handlers`, `integrations`,
    `progress`, `reading`, `records`, `tables`, `wording`.
Imported by: `cli`, `integrations`, `jamboree`, `page`.
"""
