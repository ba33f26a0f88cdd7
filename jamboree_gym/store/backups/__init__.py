"""What all backups have in common: `protocol` says what a backup offers, `opening` finds its kind.

Imports: `encoding`, `errors`.
Imported by: `backup`, `connection`, `delivery`, `diagnosis`, `page`, `reading`,
    `store`.
"""
