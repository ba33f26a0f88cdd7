"""Facts about an environment: its origin, arguments, state, spaces and outcomes.

Imports: `arrays`, `compiled`, `errors`, `wording`.
Imported by: `cli`, `delivery`, `encoding`, `handlers`, `integrations`, `multi_agent`, `reading`,
    `recording`, `replay`, `wrappers`.
"""
