"""A run: its sessions, its metrics, its checkpoints.

Imports: `arrays`, `checked`, `connection`, `encoding`, `errors`, `handlers`, `integrations`,
    `process_life`, `reading`, `records`, `tables`, `wording`.
Imported by: `cli`, `integrations`, `jamboree`, `page`.
"""
