"""How much is tried: a tenth in every run of the suite, all of it with JAMBOREE_LONG=1."""

from __future__ import annotations

import os

IS_LONG = bool(os.environ.get("JAMBOREE_LONG"))


def examples(many: int) -> int:
    """So many examples, or a tenth of them."""
    return many if IS_LONG else many // 10
