"""Recording what other libraries step, and reporting to OpenTelemetry; each module needs its extra.

Imports: `arrays`, `backup`, `checked`, `connection`, `delivery`, `encoding`, `environment`,
    `errors`, `keys`, `progress`, `reading`, `recording`, `records`, `runs`, `store`, `tables`,
    `wording`, `wrappers`.
Imported by: `cli`, `jamboree`, `runs`.
"""
