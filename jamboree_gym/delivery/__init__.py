"""From a recorder to Redis: outboxes, the writer thread, its pacing, and the lease of a process.

Imports: `arrays`, `compiled`, `encoding`, `environment`, `errors`, `journal`, `process_life`,
    `records`, `servers`, `store`.
Imported by: `connection`, `handlers`, `integrations`, `jamboree`, `reading`, `recording`.
"""
