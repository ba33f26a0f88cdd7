"""What all backups have in common: `protocol` says what a backup offers.

`opening` finds its kind, and `presence` says whether there is one.

Imports: `encoding`, `errors`, `keys`.
Imported by: `backup`, `connection`, `delivery`, `diagnosis`, `page`, `reading`,
    `recording`, `store`.
"""
