"""A run: its sessions, its metrics, its checkpoints.

Imports: `arrays`, `connection`, `delivery`, `encoding`, `errors`, `handlers`, `integrations`,
    `reading`, `tables`.
Imported by: `integrations`, `jamboree`.
"""
