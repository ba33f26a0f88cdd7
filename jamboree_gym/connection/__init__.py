"""What handlers and wrappers share: the servers, the writer and the outboxes of this process.

Imports: `arrays`, `delivery`, `encoding`, `errors`, `journal`, `keys`, `process_life`, `records`,
    `servers`, `store`, `wording`.
Imported by: `backup`, `cli`, `diagnosis`, `handlers`, `integrations`, `jamboree`, `multi_agent`,
    `page`, `reading`, `recording`, `replay`, `runs`, `wrappers`.
"""

from jamboree_gym.connection.connection import Connection
from jamboree_gym.connection.has_connection import HasConnection

__all__ = ["Connection", "HasConnection"]
