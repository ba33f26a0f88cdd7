"""Tensors of torch and JAX: as their numbers and their dtype. Neither library is imported."""

from __future__ import annotations

import sys
from typing import Any, Final

import numpy as np

from jamboree_gym.arrays.tensors import is_tensor, tensor_array

__all__ = ["build_tensor", "tensor_content"]

_DTYPES: Final = frozenset(
    {
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "bfloat16", "complex64", "complex128"),
        *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
        *("int2", "int4", "uint2", "uint4"),
    }
)
_KEY: Final = "key:"  # begins the name of a dtype of JAX's keys; their generator follows
_GENERATORS: Final = frozenset({"threefry2x32", "rbg", "unsafe_rbg"})


def tensor_content(value: Any) -> tuple[str, Any] | None:
    """Library, dtype and numbers of a tensor; None for what is none, or has no exact numbers."""
    library = _library_of(value)
    if library is None:
        return None
    name = str(value.dtype).removeprefix("torch.")
    if name.startswith("key<"):
        return _key_content(value)
    array = tensor_array(value) if name in _DTYPES and is_tensor(value) else None
    return None if array is None else ("tensor", [library, name, array])


def _key_content(key: Any) -> tuple[str, Any] | None:
    """Of a key of `jax.random.key`: its generator, and its numbers."""
    random: Any = sys.modules["jax"].random
    generator = str(random.key_impl(key))
    if generator not in _GENERATORS:
        return None
    return "tensor", ["jax", f"{_KEY}{generator}", np.asarray(random.key_data(key))]


def _library_of(value: Any) -> str | None:
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if isinstance(value, getattr(torch, "Tensor", ())):
        return "torch"
    return "jax" if isinstance(value, getattr(jax, "Array", ())) else None


def build_tensor(content: Any) -> Any:
    """The tensor, in the memory of the host; the array, where its library is not loaded."""
    library, name, array = content
    is_known = name in _DTYPES or (library == "jax" and _generator_of(name) is not None)
    if not is_known or not isinstance(array, np.ndarray):
        raise ValueError(f"no tensor of {name!r}")
    try:
        made = _torch_tensor(name, array) if library == "torch" else _jax_array(name, array)
    except Exception:  # noqa: BLE001 - another release may lack the dtype
        return array
    return array if made is None else made


def _torch_tensor(name: str, array: Any) -> Any:
    torch: Any = sys.modules.get("torch")
    return None if torch is None else torch.from_numpy(array).to(getattr(torch, name))


def _jax_array(name: str, array: Any) -> Any:
    numpy: Any = sys.modules.get("jax.numpy")
    if numpy is None:
        return None
    generator = _generator_of(name)
    if generator is not None:
        return sys.modules["jax"].random.wrap_key_data(numpy.asarray(array), impl=generator)
    made = numpy.asarray(array).astype(name)
    return made if str(made.dtype) == name else None  # without x64, JAX has no float64


def _generator_of(name: str) -> str | None:
    """The generator of a dtype of keys; None of another dtype."""
    generator = name.removeprefix(_KEY)
    return generator if generator != name and generator in _GENERATORS else None
