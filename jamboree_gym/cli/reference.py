"""Writes `docs/cli.md` from the commands: `python -m jamboree_gym.cli.reference > docs/cli.md`."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields
from enum import Enum
from typing import Any

import typer
import typer.main

from jamboree_gym.backup import BackupReport, BackupStatus
from jamboree_gym.cli import build_app
from jamboree_gym.cli.commands import EpisodeOptions, StoreOptions
from jamboree_gym.cli.looking.episodes import EPISODE_COLUMNS, STEP_COLUMNS
from jamboree_gym.cli.looking.runs import RUN_COLUMNS
from jamboree_gym.cli.looking.top import TOP_COLUMNS
from jamboree_gym.cli.playing.replay import REPLAY_COLUMNS
from jamboree_gym.diagnosis import Finding
from jamboree_gym.reading.diff import Divergence
from jamboree_gym.records import EpisodeSummary, StepData
from jamboree_gym.replay.verification.reproducible import Reproducibility
from jamboree_gym.replay.what_if import WhatIf
from jamboree_gym.runs.run_report import RunReport
from jamboree_gym.runs.run_summary import RunSummary
from jamboree_gym.servers.embedded import ServerStatus

__all__ = ["commands_of", "example_of", "json_fields", "reference"]

WIDTH = 120
_HEAD = """\
# The command line

With `jamboree-gym` you look at a store from a shell. You need
`pip install 'jamboree-gym[cli]'`, or `'jamboree-gym[cli,embedded]'` if you run no servers.

```sh
jamboree-gym record CartPole-v1 --run trial --episodes 3   # three episodes under random actions
jamboree-gym runs                                          # what is in the store
jamboree-gym ls --run trial --worst 2                      # the two with the lowest return
jamboree-gym show @last                                    # the episode that began last
```

This page is made from the commands themselves:
`python -m jamboree_gym.cli.reference > docs/cli.md`.

## Begin a training

```sh
jamboree-gym doctor                                   # is the set-up right? if not, how to mend it
jamboree-gym check CartPole-v1                        # does this environment play the same again?
jamboree-gym train CartPole-v1 --algo ppo --run ppo   # records episodes, metrics, checkpoints
jamboree-gym top                                      # in another terminal: the runs, live
```

## A run looks odd at night

```sh
jamboree-gym run ppo                     # alive or stuck, returns, metrics now and an hour before
jamboree-gym ls --run ppo --worst 5      # its worst episodes
jamboree-gym show 01a21f                 # one of them
jamboree-gym find 01a21f 'reward < -1'   # where it went wrong
jamboree-gym replay 01a21f --from 55     # see it happen again; --render draws it
jamboree-gym what-if 01a21f --step 60 --checkpoint 2 -n 50   # and with the newer policy?
jamboree-gym show 01a21f -o episode.html # to mail
jamboree-gym video ppo --worst           # its worst episode as a film
jamboree-gym tail ppo                    # what happens now
```

## What all commands share

- An episode is named by its id, by the first digits of its id (6 or more; `01a22a38..0002` has the
  last ones, too), by `@last` (the one that began last) or `@last~1` (the one before). `-` reads ids
  from stdin, a line each: `jamboree-gym ls --status truncated | jamboree-gym verify -`.
- On a terminal you see a table, with ids as short as they can be typed; what is too long for it
  goes through `$PAGER` (`PAGER=cat`: not). Elsewhere each item is a line with full ids and tabs
  between its columns, without a header line.
- Most commands have `--json`: one object, or one object a line for a list. NaN and infinity are
  `null` there.
- Results go to stdout. Progress, hints and errors go to stderr.
- An environment of [several agents](multi-agent.md) is named `aec:ID` or `parallel:ID`, as in
  PettingZoo's registry; `aec:module:function` is a function that makes one. `record` and `check`
  take it. `verify`, `replay`, `fork`, `what-if` and `video` take an episode of any of the agents,
  and play all of them together.
- A command that deletes says how much, and asks. Without a terminal it cannot ask: give `--yes`.
  `--dry-run` changes nothing.
- `jamboree-gym --install-completion` lets your shell complete names of runs and ids of episodes.
- A misspelt command, run, column, environment, folder or word is answered with the nearest one.

| exit code | meaning |
|---|---|
| 0 | it is done, or equal |
| 1 | no: it differs, is damaged, is not there, or cannot be done |
| 2 | it was called wrongly, or it could not find out (`verify`, `check`, `replay`) |
| 3 | the store is away or full |
| 130 | Ctrl-C |
| 141 | the program that read the output has ended (`head`) |
| 143 | `kill`, or the end of a container: SIGTERM. What is recorded is delivered first |
"""


def json_fields() -> dict[str, Mapping[str, str]]:
    """What `--json` of a command prints: the meaning of each field."""
    run = _attributes(RunSummary)
    report = {name: text for name, text in _attributes(RunReport).items() if name != "summary"}
    step = _attributes(StepData)
    return {
        "runs": run,
        "run": {**run, **report},
        "ls": _attributes(EpisodeSummary),
        "show": {
            "summary": "As in `ls`.",
            "provenance": "Environment, wrappers, versions, machine, commit.",
            "rewards": "The reward of each step.",
            "first_steps": "As in `find`.",
            "last_steps": "As in `find`; none of the first.",
        },
        "find": step,
        "tail": {"episode": "Id of the episode.", **step},
        "top": {
            "runs": "As in `runs`.",
            "steps_per_s": "Of all runs, in the last minute.",
            "backup": "As in `backup status`.",
        },
        "diff": {
            "equal": "Whether all steps are equal.",
            "common_steps": "Number of equal steps, counted from the reset.",
            "divergence": "The first difference, null if there is none: "
            + ", ".join(f"`{one.name}`" for one in fields(Divergence))
            + " (-1 for the reset).",
            "a": "Summary of the one, as in `ls`.",
            "b": "Summary of the other.",
        },
        "rm": {
            "episodes": "Ids.",
            "steps": "Number of their steps.",
            "runs": "Names of the runs that go whole.",
            "deleted": "Whether they are deleted; false for `--dry-run`.",
        },
        "prune": {
            "episodes": "Ids of those that go.",
            "steps": "Number of their steps.",
            "stay": "How many of those that were chosen stay.",
            "deleted": "Whether they are deleted; false for `--dry-run`.",
        },
        "replay": {
            **step,
            "equal": "Whether the simulation returned the same; None with `--recorded`.",
            "difference": "The first value that differs, None if there is none.",
        },
        "verify": {
            "equal": "Whether all episodes are equal.",
            "episodes": "Number of episodes.",
            "failed": "Number of those that differ or could not be verified.",
            "unseen_infos": "Infos that no episode has.",
            "reports": "Of each episode: `episode_id`, `equal`, `steps`, `mismatch`, `error`, "
            "`changed`; of a joint one also `turns`, and the `agent` and `turn` that differ.",
        },
        "check": {
            "equal": "Whether it plays the same again.",
            **_attributes(Reproducibility),
        },
        "record": {
            "run": "Name of the run.",
            "episodes": "Their ids.",
            "steps": "Number of their steps.",
            "mean_return": "Of these episodes.",
        },
        "train": {
            "run": "Name of the run.",
            "episodes": "Number of episodes of the run.",
            "steps": "Number of their steps.",
            "mean_return": "Of the newest ten that reached their end.",
            "checkpoint": "Number of the newest checkpoint.",
        },
        "what-if": {
            "mean": "Mean of the returns. Of several agents, it is an object by agent, and so are "
            "`share_better`, `returns` and `recorded_return`; the steps are turns.",
            "share_better": "Share of them that is higher than what happened: 0 to 1.",
            **_attributes(WhatIf),
        },
        "fork": {"episode": "Id of the parent.", "step": "As given.", "code": "The code."},
        "video": {
            "path": "The file.",
            "frames": "Number of frames.",
            "verified": "Whether the replay was equal.",
        },
        "export": {
            "output": "As given.",
            "format": "The format.",
            "episodes": "Number of episodes that were chosen.",
        },
        "import": {
            "dataset": "As given.",
            "format": "The format.",
            "run": "The run of the episodes.",
            "episodes": "Their ids.",
        },
        "migrate": {
            "changed": "Logs that were brought up to date.",
            "damaged": "What is damaged, and was left as it is.",
        },
        "status": {
            "servers": "The embedded servers, null for a store that is not embedded: "
            + ", ".join(f"`{one.name}`" for one in fields(ServerStatus))
            + ".",
            "redis": "Where Redis is: host and port, or socket path; with Sentinels the primary, "
            "of a cluster all. null if the servers do not run.",
            "alive": "Runs that are running: `name`, `steps`, `steps_per_s`, `last_step_at`.",
            "steps_per_s": "Of all runs, in the last minute.",
            "backup": "As in `backup status`; null if the servers do not run.",
        },
        "doctor": {
            "problems": "Number of problems.",
            "checks": "Of each check: "
            + ", ".join(f"`{one.name}`" for one in fields(Finding))
            + "; the level is ok, note or problem.",
        },
        "backup flush": {"records": "Number of records and episode rows that were copied."},
        "backup status": _attributes(BackupStatus),
        "backup verify": {
            "equal": "Whether both sides are equal.",
            **_attributes(BackupReport),
        },
        "backup restore": {"logs": "Number of logs that were put back."},
        "backup copy": {"logs": "Number of logs of which something was copied."},
    }


def commands_of(app: typer.Typer) -> dict[str, Any]:
    """The commands by their full names."""
    found: dict[str, Any] = {}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        parts = getattr(command, "commands", None)
        if parts is None:
            found[name] = command
        else:
            found |= {f"{name} {part}": one for part, one in parts.items()}
    return found


def example_of(command: Any) -> str:
    """The example in the help of a command."""
    _, _, example = command.help.partition("Example: ")
    return str(example.strip())


def reference() -> str:
    """The page."""
    commands = commands_of(build_app())
    lines = [_HEAD, "## Options of several commands", ""]
    lines += ["Which store:", "", *_options_of(commands["runs"], _names(StoreOptions)), ""]
    lines += [
        "Which episodes, as in [`jam.episodes(...)`](read.md#find-episodes):",
        "",
        *_options_of(commands["ls"], _names(EpisodeOptions)),
        "",
        "The columns of `--where` are those of `summary_table()`; a tag is `tag_NAME`.",
        "",
        "## Columns",
        "",
        f"- `runs`: {_listed(RUN_COLUMNS)}",
        f"- `top`: {_listed(TOP_COLUMNS)}",
        f"- `ls`: {_listed(EPISODE_COLUMNS)}",
        f"- `find`: {_listed(STEP_COLUMNS)}; `tail` has the id of the episode in front",
        f"- `replay`: {_listed(REPLAY_COLUMNS)}",
        "",
        "## Commands",
    ]
    documented = json_fields()
    for name, command in commands.items():
        lines += ["", *_section(name, command, documented.get(name))]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def _section(name: str, command: Any, documented: Mapping[str, str] | None) -> Iterator[str]:
    yield f"### {name}"
    yield ""
    text = command.help.partition("Example: ")[0]
    for paragraph in text.strip().split("\n\n"):
        yield from textwrap.wrap(" ".join(paragraph.split()), WIDTH)
        yield ""
    yield from ("```sh", example_of(command), "```", "")
    own = {one.name for one in command.params} - {"help", "json"}
    groups = []
    for words, group in (("the store", StoreOptions), ("the episodes", EpisodeOptions)):
        if _names(group) <= own:
            own -= _names(group)
            groups.append(words)
    if own:
        yield from _options_of(command, own)
        yield ""
    if groups:
        yield f"Also the options of {' and of '.join(groups)}."
    if documented is not None:
        yield from ("", "| `--json` | |")
        yield "|---|---|"
        for field, meaning in documented.items():
            in_json = re.sub(r"\bNone\b", "null", _cell(meaning))
            yield f"| `{field}` | {in_json} |"


def _options_of(command: Any, names: set[str]) -> Iterator[str]:
    yield "| option | | default |"
    yield "|---|---|---|"
    for one in command.params:
        if one.name in names:
            words = [text for text in (*one.opts, *one.secondary_opts) if text.startswith("-")]
            shown = ", ".join(f"`{text}`" for text in words)
            variable = f" Also `{one.envvar}`." if one.envvar else ""
            shown = shown or f"`{_cell(one.metavar or one.name.upper())}`"
            meaning = f"{_cell(one.help or '')}{_choices_of(one)}{variable}"
            row = " | ".join((shown, meaning, _default_of(one))).rstrip()
            yield f"| {row} |"


def _choices_of(option: Any) -> str:
    """The words that an option takes, where it takes only some."""
    kind = option.type_descriptor.annotation
    is_choice = isinstance(kind, type) and issubclass(kind, Enum)
    return f" One of {_listed(tuple(one.value for one in kind))}." if is_choice else ""


def _default_of(option: Any) -> str:
    """What holds where an option is not given: a value, or words for it."""
    if option.required:
        return "required"
    if isinstance(option.show_default, str):
        return _cell(option.show_default)
    if option.default is None or option.default is False or option.default == []:
        return ""
    return f"`{option.opts[0] if option.default is True else option.default}`"


def _names(group: type[Any]) -> set[str]:
    return {one.name for one in fields(group)}


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _attributes(record: type[Any]) -> dict[str, str]:
    """The attributes of a record, and what its docstring says of them."""
    text = textwrap.dedent((record.__doc__ or "").partition("Attributes:\n")[2])
    found = re.findall(r"^(\w+): (.*(?:\n {2,}.*)*)", text, re.MULTILINE)
    return {name: " ".join(meaning.split()) for name, meaning in found}


if __name__ == "__main__":
    print(reference(), end="")
