"""`export` and `import`: episodes in the formats of other libraries."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from jamboree_gym.cli.commands import (
    EpisodeOptions,
    JsonOption,
    StoreOptions,
    TagsOption,
    progress_bar,
)
from jamboree_gym.cli.output import print_json, print_text
from jamboree_gym.cli.typed_values import named_values
from jamboree_gym.errors import EpisodeNotFound, InvalidArgument, MissingExtra
from jamboree_gym.wording import counted, did_you_mean

if TYPE_CHECKING:
    from jamboree_gym.jamboree import Jamboree
    from jamboree_gym.progress import Progress
    from jamboree_gym.reading.query import EpisodeQuery

__all__ = ["export", "import_"]


class Format(StrEnum):
    """What episodes are written as."""

    arrow = "arrow"
    parquet = "parquet"
    hdf5 = "hdf5"
    datasets = "datasets"
    minari = "minari"
    lerobot = "lerobot"
    rllib = "rllib"


def export(
    store: StoreOptions,
    chosen: EpisodeOptions,
    output: Annotated[
        str,
        typer.Option("--output", "-o", help="A file (arrow), a folder, or the id of the dataset."),
    ],
    format: Annotated[
        Format | None, typer.Option(help="The format.", show_default="arrow for *.arrow")
    ] = None,
    fps: Annotated[
        float | None, typer.Option(help="Steps per second, for lerobot.", min=0.001)
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file of arrow if it is there.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Write episodes in another format. A second call adds to a folder what it lacks.

    A file gets its name when it is complete.

    Example: jamboree-gym export --run ppo --format parquet -o steps
    """
    chosen_format = format or (Format.arrow if Path(output).suffix == ".arrow" else None)
    if chosen_format is None:
        raise InvalidArgument(
            f"-o {output}: say --format {', '.join(Format)}; only *.arrow tells by its name"
        )
    if (chosen_format is Format.lerobot) != (fps is not None):
        raise InvalidArgument("--fps is needed for --format lerobot, and for no other format")
    with store.open() as jam, progress_bar("writing") as progress:
        query = chosen.query(jam)
        count = len(query)
        _write(query, chosen_format, output, fps or 0.0, progress, overwrite=overwrite)
    if json:
        print_json({"output": output, "format": chosen_format.value, "episodes": count})
    else:
        print_text(f"{output}: {counted(count, 'episode')}")


def _write(
    query: EpisodeQuery,
    format: Format,
    output: str,
    fps: float,
    progress: Progress,
    *,
    overwrite: bool,
) -> None:
    if format is Format.arrow:
        query.to_arrow(output, overwrite=overwrite, progress=progress)
    elif format is Format.parquet:
        query.to_parquet(output, progress=progress)
    elif format is Format.hdf5:
        from jamboree_gym.integrations.hdf5 import to_hdf5

        to_hdf5(query, output, progress=progress)
    elif format is Format.datasets:
        from jamboree_gym.integrations.datasets import to_datasets

        to_datasets(query, output, streaming=True, progress=progress)
    elif format is Format.minari:
        from jamboree_gym.integrations.minari import to_minari

        to_minari(query, output, progress=progress)
    elif format is Format.rllib:
        from jamboree_gym.integrations.rllib import to_rllib

        to_rllib(query, output, progress=progress)
    else:
        from jamboree_gym.integrations.lerobot import to_lerobot

        to_lerobot(query, output, fps=fps, progress=progress)


def import_(
    store: StoreOptions,
    dataset: Annotated[
        str,
        typer.Argument(
            help="The id of a Minari dataset on this machine, or a folder that `export` wrote as "
            "hdf5 or datasets."
        ),
    ],
    format: Annotated[
        Format | None,
        typer.Option(
            help="The format; only minari, hdf5 and datasets hold whole episodes.",
            show_default="what the folder shows",
        ),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(help="The run of the episodes.", show_default="the id, or the folder's name"),
    ] = None,
    tag: TagsOption = None,
    json: JsonOption = False,
) -> None:
    """Store the episodes of a dataset. A second call adds those that are missing.

    Example: jamboree-gym import cartpole/random-v0 --run imported
    """
    tags = named_values("--tag", tag)
    chosen = format or _format_of(dataset)
    if chosen in NOT_IMPORTED:
        raise InvalidArgument(
            f"{dataset}: the format {chosen} {NOT_IMPORTED[chosen]}, so it holds no whole episode\n"
            "import reads minari, hdf5 and datasets: export the episodes as one of these"
        )
    name = run or (dataset if chosen is Format.minari else _folder_of(dataset).name)
    with store.open(is_new=True) as jam, progress_bar("storing") as progress:
        try:
            ids = _read(jam, chosen, dataset, name, tags, progress)
        except (EpisodeNotFound, MissingExtra) as error:
            if format is None and chosen is Format.minari:  # it was taken for one
                raise EpisodeNotFound(_nothing_there(dataset, f", and {error}")) from error
            raise
    if json:
        print_json({"dataset": dataset, "format": chosen.value, "run": name, "episodes": ids})
    else:
        print_text(f"run {name}: {counted(len(ids), 'episode')}")


NOT_IMPORTED: Final = {
    Format.arrow: "lacks the last observation of each episode",
    Format.parquet: "lacks the last observation of each episode",
    Format.lerobot: "lacks the last observation of each episode",
    Format.rllib: "lacks infos and seeds",
}

# Which files each format has in its folder.
_FILES: Final = {
    "main_data.hdf5": Format.hdf5,
    "train-*.parquet": Format.datasets,
    "meta/info.json": Format.lerobot,
    "part-*.parquet": Format.parquet,
}


_IMPORTED: Final = (
    "import reads a folder that export has written as hdf5 or datasets, or the id of a Minari "
    "dataset on this machine: minari list local"
)
_MINARI_ID: Final = re.compile(r"[^~.].*-v\d+")


def _format_of(dataset: str) -> Format:
    """The format of a file or folder; Minari for what is none, and may be the id of a dataset.

    Raises:
        EpisodeNotFound: It is neither; names the nearest that there is.
        InvalidArgument: It is a file or folder that `export` has not written.
    """
    path = Path(dataset)
    if path.is_file():
        known = {".arrow": Format.arrow, ".parquet": Format.parquet, ".hdf5": Format.hdf5}
        if path.suffix in known:
            return known[path.suffix]
    for pattern, format in _FILES.items():
        if any(path.glob(pattern)):
            return format
    if path.exists():
        looked_for = ", ".join(f"{pattern} ({format})" for pattern, format in _FILES.items())
        raise InvalidArgument(
            f"{dataset} is not a folder that export has written{_written_in(path)}: it has no "
            f"{looked_for}\n{_IMPORTED}"
        )
    if path.is_absolute() or not _MINARI_ID.fullmatch(dataset):
        raise EpisodeNotFound(_nothing_there(dataset))
    return Format.minari


def _written_in(path: Path) -> str:
    """Which folder in this one has the files of a format, as a question."""
    found = (one for one in sorted(path.glob("*/")) for name in _FILES if any(one.glob(name)))
    inner = next(found, None)
    return "" if inner is None else f" (did you mean {str(inner)!r}?)"


def _nothing_there(dataset: str, more: str = "") -> str:
    """That there is no such folder, with the nearest one."""
    path = Path(dataset)
    try:
        there = [str(one) if path.name != dataset else one.name for one in path.parent.iterdir()]
    except OSError:
        there = []
    near = did_you_mean(dataset, there)
    return f"{dataset}: there is no such folder or file{more}{near}\n{_IMPORTED}"


def _folder_of(dataset: str) -> Path:
    path = Path(dataset).resolve()
    return path.parent if path.is_file() else path


def _read(
    jam: Jamboree,
    format: Format,
    dataset: str,
    run: str,
    tags: dict[str, Any],
    progress: Progress,
) -> list[str]:
    if format is Format.hdf5:
        from jamboree_gym.integrations.hdf5 import from_hdf5

        return from_hdf5(jam, dataset, run=run, tags=tags, progress=progress)
    if format is Format.datasets:
        from jamboree_gym.integrations.datasets import from_datasets

        return from_datasets(jam, dataset, run=run, tags=tags, progress=progress)
    from jamboree_gym.integrations.minari import from_minari

    return from_minari(jam, dataset, run=run, tags=tags, progress=progress)
