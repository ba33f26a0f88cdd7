"""Coverage-guided: atheris looks for bytes that bring a decoder to anything but an error of ours.

    python tests/faults/fuzz_decoders.py [number of inputs] [seed] [options of libFuzzer ...]

Each input begins with a byte that chooses the decoder. Besides errors that are not ours, a finding
is: what takes more than 5 s, asks for more memory than a few kilobytes of input can need, or makes
Python import, open, compile or start something.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import warnings
from pathlib import Path
from random import Random
from typing import Any

import atheris

with atheris.instrument_imports(include=["jamboree_gym"]):
    from decoders import DECODERS

SECONDS_AN_INPUT = 5
MEMORY_BYTES = 1 << 29
LONGEST = 1 << 16
REFUSED = ("compile", "exec", "import", "open", "os.", "pickle.", "marshal.", "code.__new__")
REFUSED += ("ctypes.", "socket.", "subprocess.", "shutil.", "urllib.", "builtins.input")

seen: list[str] = []
is_decoding = False


def hook(event: str, arguments: tuple[Any, ...]) -> None:
    """Note what must not happen while bytes are decoded."""
    if is_decoding and event.startswith(REFUSED):
        seen.append(f"{event} {str(arguments[:1])[:200]}")


def read_one(data: bytes) -> None:
    """Read one input."""
    global is_decoding
    if not data:
        return
    is_decoding = True
    try:
        DECODERS[data[0] % len(DECODERS)].check(data[1:])
    finally:
        is_decoding = False
    if seen:
        raise AssertionError(f"decoding did more than decode: {seen}")


def change(data: bytes, max_size: int, seed: int) -> bytes:
    """What comes next: changed as the format has it, or as libFuzzer does it."""
    rng = Random(seed)
    if not data or rng.random() < 0.3:
        return bytes(atheris.Mutate(data, max_size))
    number = data[0] % len(DECODERS)
    return (bytes([number]) + DECODERS[number].mutate(rng, data[1:]))[:max_size]


def limit_memory() -> None:
    """From here on no more than half a gigabyte."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES,) * 2)


def main(inputs: int = 1000, seed: int = 1, *options: str) -> None:
    """Read so many inputs, and end the process."""
    warnings.simplefilter("error")
    for decoder in DECODERS:
        for content in decoder.seeds:  # whatever is loaded late is loaded now
            decoder.check(content)
    with tempfile.TemporaryDirectory() as name:
        for number, decoder in enumerate(DECODERS):
            for which, content in enumerate(decoder.seeds):
                Path(name, f"{decoder.name}-{which}").write_bytes(bytes([number]) + content)
        arguments = [sys.argv[0], f"-runs={inputs}", f"-seed={seed}", f"-max_len={LONGEST}"]
        arguments += [f"-timeout={SECONDS_AN_INPUT}", "-rss_limit_mb=0", "-print_final_stats=1"]
        arguments += [f"-artifact_prefix={tempfile.gettempdir()}/", *options, name]
        atheris.Setup(arguments, read_one, custom_mutator=change)
        sys.addaudithook(hook)
        limit_memory()
        atheris.Fuzz()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]), *sys.argv[3:])
