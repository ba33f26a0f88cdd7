"""A recorded episode as an environment that returns recorded values and needs no simulator.

Imports: `arrays`, `checked`, `encoding`, `environment`, `errors`, `handlers`, `reading`,
    `wording`.
Imported by: `multi_agent`, `replay`.
"""
