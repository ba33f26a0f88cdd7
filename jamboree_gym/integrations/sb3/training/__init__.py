"""One session of training with Stable-Baselines3: the callback, what it keeps, how to resume.

Imports: `arrays`, `checked`, `connection`, `environment`, `errors`, `keys`, `progress`,
    `reading`, `recording`, `runs`, `wording`, `wrappers`.
Imported by: `cli`, `integrations`, `runs`.
"""
