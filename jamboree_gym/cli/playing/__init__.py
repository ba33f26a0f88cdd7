"""Commands that play environments: to record, to train, to replay, to compare.

Imports: `errors`, `replay`, `store`, `wording`.
Imported by: `cli`.
"""
