"""Commands that play environments: to record, to train, to replay, to compare.

Imports: `environment`, `errors`, `handlers`, `integrations`, `jamboree`, `multi_agent`,
    `reading`, `records`, `replay`, `tables`, `wording`.
Imported by: `cli`.
"""
