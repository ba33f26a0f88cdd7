"""Stable-Baselines3's buffers, filled with what was recorded, before training or live.

Imports: `arrays`, `checked`, `connection`, `encoding`, `environment`, `errors`, `progress`,
    `reading`, `records`.
Imported by: `integrations`.
"""
