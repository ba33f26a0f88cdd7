"""Recording PettingZoo environments: an episode for each agent, and the turns.

Imports: `checked`, `connection`, `environment`, `errors`, `handlers`, `process_life`, `recording`,
    `records`, `wrappers`.
Imported by: `jamboree`, `multi_agent`.
"""
