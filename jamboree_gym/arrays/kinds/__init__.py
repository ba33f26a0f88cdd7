"""What values of many classes are kept as: atoms, plain forms, and kinds, which come back as such.

Imports: `checked`, `errors`, `wording`.
Imported by: `arrays`, `environment`, `integrations`, `replay`.
"""
