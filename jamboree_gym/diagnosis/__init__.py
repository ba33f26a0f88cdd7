"""What is wrong with a set-up, and the mend: packages, home, servers, Redis, backup, journals.

Imports: `backup`, `connection`, `errors`, `journal`, `keys`, `servers`, `store`, `wording`.
Imported by: `cli`.
"""

from jamboree_gym.diagnosis.diagnose import diagnose
from jamboree_gym.diagnosis.finding import Finding

__all__ = ["Finding", "diagnose"]
