"""Commands that look at what is stored.

Imports: `errors`, `jamboree`, `reading`, `records`, `runs`, `tables`, `wording`.
Imported by: `cli`.
"""
