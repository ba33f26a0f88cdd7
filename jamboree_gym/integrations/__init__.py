"""Recording what other libraries step; each module needs its extra.

Imports: `arrays`, `connection`, `delivery`, `encoding`, `environment`, `errors`, `keys`,
    `progress`, `reading`, `recording`, `records`, `runs`, `tables`, `wrappers`.
Imported by: `jamboree`, `runs`.
"""
