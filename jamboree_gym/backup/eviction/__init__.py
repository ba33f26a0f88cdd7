"""What Redis may evict once MongoDB holds it: the policy, the candidates, and the trimmer.

Imports: `arrays`, `encoding`, `errors`, `keys`, `reading`, `store`, `wording`.
Imported by: `backup`.
"""
