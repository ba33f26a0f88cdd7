"""Trees: nested dicts, tuples and lists, whose leaves are arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy.typing as npt

from jamboree_gym.errors import ExportError

__all__ = [
    "Arrays",
    "LeafPath",
    "check_leaf",
    "leaves_of",
    "map_leaves",
    "numbers_of",
    "path_shown",
    "zip_leaves",
]

Arrays: TypeAlias = Any
"""Values of many steps: an array (n, ...), or a dict, tuple or list of such; an array of objects
where the values have no fixed shape."""

LeafPath: TypeAlias = tuple[str | int, ...]
"""Name of the whole, then the keys that lead to the leaf."""


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """The same tree, with what the function makes of each leaf."""
    if isinstance(tree, dict):
        return {key: map_leaves(function, part) for key, part in tree.items()}
    if isinstance(tree, (list, tuple)):
        return tree.__class__([map_leaves(function, part) for part in tree])
    return function(tree)


def zip_leaves(function: Callable[[Sequence[Any]], Any], trees: Sequence[Any]) -> Any:
    """One tree out of several alike, with what the function makes of their leaves at each place."""
    first = trees[0]
    if isinstance(first, dict):
        return {key: zip_leaves(function, [tree[key] for tree in trees]) for key in first}
    if isinstance(first, (list, tuple)):
        return first.__class__([zip_leaves(function, at) for at in zip(*trees, strict=True)])
    return function(trees)


def leaves_of(arrays: Arrays, *path: str | int) -> Iterator[tuple[LeafPath, npt.NDArray[Any]]]:
    """Each array, and the path to it; `path` is the one to the whole."""
    if isinstance(arrays, (dict, list, tuple)):
        for key, part in arrays.items() if isinstance(arrays, dict) else enumerate(arrays):
            yield from leaves_of(part, *path, key)
    else:
        yield path, arrays


def numbers_of(
    arrays: Arrays, *path: str | int, episode: str, into: str
) -> Iterator[tuple[LeafPath, npt.NDArray[Any]]]:
    """The same, in native byte order, where all are of numbers; the names are for the error.

    Raises:
        ExportError: Values of a leaf have no fixed shape; names it.
    """
    for leaf, values in leaves_of(arrays, *path):
        if values.dtype == object:
            raise ExportError(
                f"{path_shown(leaf)} of episode {episode!r} has no fixed shape, and {into} takes "
                "numbers of fixed shape only: ask for other episodes"
            )
        yield leaf, values.astype(values.dtype.newbyteorder("="), copy=False)


def check_leaf(path: LeafPath, values: npt.NDArray[Any], *, into: str, episode: str = "") -> None:
    """Refuse what a format has no place for that takes arrays of one shape, and texts.

    Raises:
        ExportError: The values have no fixed shape and are no texts; names the leaf.
    """
    if values.dtype == object and not all(isinstance(value, str) for value in values):
        of = f" of episode {episode!r}" if episode else ""
        raise ExportError(
            f"{path_shown(path)}{of} has no fixed shape, and {into} takes arrays and texts only: "
            "ask for other episodes"
        )


def path_shown(path: LeafPath) -> str:
    """As one would write it in Python: `observation["joints"][0]`."""
    first, *keys = path
    return str(first) + "".join(
        f'["{key}"]' if isinstance(key, str) else f"[{key}]" for key in keys
    )
