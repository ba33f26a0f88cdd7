"""Keeps the documented import path of `jamboree_gym.servers.embedded`."""

from jamboree_gym.servers.embedded import *  # noqa: F403
from jamboree_gym.servers.embedded import __all__ as __all__
