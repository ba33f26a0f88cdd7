"""Handlers, which store records in one log each; following a log; side logs of an episode.

Imports: `arrays`, `checked`, `compiled`, `connection`, `delivery`, `encoding`,
    `environment`, `errors`, `journal`, `process_life`, `records`, `store`.
Imported by: `cli`, `jamboree`, `multi_agent`, `page`, `reading`, `recording`, `replay`, `runs`,
    `wrappers`.
"""
