"""Minari datasets out of the store, and into it.

Imports: `arrays`, `checked`, `connection`, `encoding`, `environment`, `errors`, `keys`, `progress`,
    `reading`, `recording`, `records`.
Imported by: `cli`.
"""

from jamboree_gym.errors import MissingExtra

try:
    import h5py as _h5py  # noqa: F401 # as Minari's own storage imports it, and the next one
    import minari as _minari  # noqa: F401
    import PIL as _pillow  # noqa: F401
except ImportError as error:
    raise MissingExtra("Minari datasets need: pip install 'jamboree-gym[minari]'") from error

from jamboree_gym.integrations.minari.export import to_minari
from jamboree_gym.integrations.minari.load import from_minari

__all__ = ["from_minari", "to_minari"]
