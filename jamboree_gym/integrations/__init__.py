"""Recording what other libraries step; each module needs its extra.

Imports: `arrays`, `checked`, `connection`, `encoding`, `environment`, `errors`, `keys`, `progress`,
    `reading`, `recording`, `records`, `runs`, `tables`, `wording`, `wrappers`.
Imported by: `cli`, `jamboree`, `runs`.
"""
