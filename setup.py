"""What pyproject.toml cannot say: a C extension that may be left out."""

import os
import sys

from setuptools import Extension, setup

HEADERS = (
    "batches",
    "checksum",
    "columns",
    "newest_rows",
    "notes",
    "packer",
    "plain_record",
    "referents",
    "slots",
    "template",
)


def extensions() -> list[Extension]:
    """The compiled core. Without a compiler it is left out, and Python does its work."""
    is_pure = os.environ.get("JAMBOREE_PURE", "0") not in ("", "0")
    if is_pure or sys.implementation.name != "cpython" or sys.platform == "win32":
        return []
    try:
        import numpy
    except ImportError:  # where build requirements are left out
        return []
    return [
        Extension(
            "jamboree_gym.compiled._compiled",
            ["native/plain_step.c"],
            depends=[f"native/{name}.h" for name in HEADERS],
            include_dirs=[numpy.get_include()],
            optional=True,
        )
    ]


setup(ext_modules=extensions())
