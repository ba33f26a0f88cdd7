"""Commands that play environments: to record, to train, to replay, to compare.

Imports: `environment`, `errors`, `integrations`, `jamboree`, `reading`, `records`, `replay`,
    `store`, `tables`, `wording`.
Imported by: `cli`.
"""
