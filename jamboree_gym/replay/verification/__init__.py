"""Simulating episodes again and comparing them with what was recorded.

Imports: `arrays`, `checked`, `connection`, `encoding`, `environment`, `errors`, `progress`,
    `reading`, `records`, `wording`.
Imported by: `cli`, `multi_agent`, `replay`.
"""
