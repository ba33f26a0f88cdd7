"""Recording episodes: the handler of an episode, what recorders share, the import of arrays.

Imports: `arrays`, `checked`, `compiled`, `connection`, `delivery`, `encoding`, `environment`,
    `errors`, `handlers`, `journal`, `keys`, `process_life`, `reading`, `records`, `servers`,
    `store`, `tables`.
Imported by: `integrations`, `jamboree`, `multi_agent`, `replay`, `wrappers`.
"""
