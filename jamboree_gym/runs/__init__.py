"""A run: its sessions, its metrics, its checkpoints.

Imports: `arrays`, `connection`, `encoding`, `errors`, `handlers`, `integrations`,
    `process_life`, `reading`, `tables`.
Imported by: `integrations`, `jamboree`.
"""
