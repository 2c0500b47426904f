"""Plans the rows of an ablation: the config of each, and which stages it shares with the others."""

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from mlcm_jax import config as configs
from mlcm_jax.errors import InputError, did_you_mean
from mlcm_jax.training import stages

# Groups passed as keyword arguments; they may hold keys that the base config lacks.
_ARGUMENTS = tuple(f"config.{name}" for name, key in configs.SCHEMA.items() if key.type is dict)


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        name: its name in the table.
        config: the config of its run, in which only the seed remains to be set.
        stage: the stage that is scored.
        stages: the scored stage and all that it needs, in the order of training.
        shared: those of `stages` that come from W/shared.
        control: the row that it is compared with, "" for none.
    """

    name: str
    config: ConfigDict
    stage: str
    stages: tuple[str, ...]
    shared: tuple[str, ...]
    control: str

    @property
    def folder(self) -> str:
        """The name of its folder: its own name in lower-case letters, digits and _."""
        return re.sub(r"[^a-z0-9]+", "_", self.name.lower()).strip("_")

    @property
    def retrained(self) -> tuple[str, ...]:
        """Stages that the scored one needs and that this row trains for itself."""
        return tuple(name for name in self.stages if name not in (self.stage, *self.shared))


def plan(config: ConfigDict) -> list[Row]:
    """Makes and checks the rows of an ablation config, in the order of `config.ablation.rows`.

    An ablation config is that of a run with two further keys (`config.add_grid`):
      grid: {row: overrides of the run's keys}. The last of a row's `stages` is scored; stages that it needs are added.
      ablation: `rows`, all names of the grid in the order of the table; `control`, the row that the others are compared
        with, and `controls` {row: another control, "" for none}; `shared`, stages trained once per seed with the run's
        own keys; `comparisons`, further pairs (row, other row).

    A row that overrides a key on which a shared stage depends trains for itself that stage and all that need it.

    Raises:
        InputError: the config is invalid; the message names the row and the key.
    """
    for key in ("grid", "ablation"):
        if key not in config:
            raise InputError(f"The config has no config.{key}; take one such as configs/ablation_synthetic.py.")
    options, grid = config.ablation, config.grid
    if set(options.rows) != set(grid) or len(options.rows) != len(grid):
        odd = sorted(set(options.rows) ^ set(grid))
        raise InputError(f"config.ablation.rows must name every row of config.grid once; see {', '.join(odd)}.")
    if len(set(config.seeds)) != len(config.seeds):
        raise InputError(f"config.seeds={tuple(config.seeds)} names a seed twice.")
    common = base(config)
    for name in options.shared:
        if name not in stages.STAGES:
            raise InputError(
                f"config.ablation.shared names {name!r}, which is not a stage; {did_you_mean(name, stages.STAGES)}"
            )
    shared = stages.with_required(options.shared, common)
    rows = [_row(name, common, grid[name], options, shared) for name in options.rows]
    _check(rows, options)
    return rows


def base(config: ConfigDict) -> ConfigDict:
    """Returns the config of the run alone, without `grid`, `ablation` and `seeds`."""
    own = config.copy_and_resolve_references()
    with own.unlocked():
        own.seeds = ()
        for key in ("grid", "ablation"):
            del own[key]
    return own


def _row(name: str, common: ConfigDict, overrides: ConfigDict, options: ConfigDict, shared: Sequence[str]) -> Row:
    config = common.copy_and_resolve_references()
    with config.unlocked():
        _override(config, overrides, "config", name)
        try:
            stages.check(config)
            if config.loss.name == "boxes":
                raise InputError("A detector has no NME to compare; train it with mlcm train.")
            scored = config.stages[-1]
            config.stages = stages.with_required([scored], config)
            stages.check(config)  # of what it needs as well
        except InputError as error:
            raise InputError(f"Row {name!r} of config.grid: {error}") from error
    changed = _differing(config, common)
    unchanged = [
        stage for stage in config.stages if stage in shared and not any(stages.reads(stage, config, k) for k in changed)
    ]
    control = options.controls.get(name, options.control)
    control = "" if control == name else control
    return Row(name, config, scored, config.stages, tuple(unchanged), control)


def _override(config: ConfigDict, overrides: ConfigDict, where: str, row: str) -> None:
    """Writes a row's values over those of the run, in place."""
    for key, value in overrides.items():
        path = f"{where}.{key}"
        subject = f"Row {row!r} of config.grid sets {path}"
        if path in ("config.seed", "config.seeds"):
            raise InputError(f"{subject}; seeds apply to the whole grid: set config.seeds.")
        if key not in config and where not in _ARGUMENTS:
            raise InputError(f"{subject}, which is not a key of the config; {did_you_mean(key, config)}")
        if isinstance(value, ConfigDict) != isinstance(config.get(key), ConfigDict):
            raise InputError(f"{subject}; override a group of keys key by key, and a value by a value.")
        if isinstance(value, ConfigDict):
            _override(config[key], value, path, row)
            continue
        try:
            config[key] = value
        except (TypeError, ValueError) as error:
            raise InputError(f"{subject}={value!r}: {error}") from error


def _differing(one: ConfigDict, other: ConfigDict) -> list[str]:
    """Lists the dotted names of the keys in which two configs differ."""
    values = [configs.flat(json.loads(config.to_json())) for config in (one, other)]
    return sorted(k for k in values[0].keys() | values[1].keys() if values[0].get(k) != values[1].get(k))


def _check(rows: Sequence[Row], options: ConfigDict) -> None:
    """Raises InputError for rows that cannot be in one table or be compared with their controls."""
    by_name, folders = {row.name: row for row in rows}, {"shared": "the shared stages"}
    for row in rows:
        if "," in row.name or not row.folder:
            raise InputError(f"Row {row.name!r} of config.grid needs a name with a letter or digit, without a comma.")
        if row.folder in folders:
            raise InputError(f"Row {row.name!r} would share its folder with {folders[row.folder]}; rename it.")
        folders[row.folder] = f"row {row.name!r}"
    pairs = [(row.name, row.control) for row in rows if row.control] + [tuple(pair) for pair in options.comparisons]
    for name in {*options.controls, *(name for pair in pairs for name in pair)}:
        if name not in by_name:
            raise InputError(f"config.ablation names the row {name!r}, which is not in config.grid.")
    for name, control in pairs:
        models = [stages.STAGES[by_name[n].stage].model for n in (name, control)]
        if models[0] != models[1]:
            raise InputError(
                f"Row {name!r} scores config.{models[0]}, but its control {control!r} scores config.{models[1]}; give "
                "the row a control of the same network in config.ablation.controls ('' for none)."
            )
    for row in rows[1:]:
        for key in ("normalizer", "layout"):
            _same(key, row.name, row.config[key], rows[0].config[key])
        _same("test_dataset", row.name, *(r.config.test_dataset or r.config.dataset for r in (row, rows[0])))
        _same("test_split", row.name, row.config.test_split, rows[0].config.test_split)


def _same(key: str, name: str, value: Any, other: Any) -> None:
    if value != other:
        raise InputError(
            f"Row {name!r} of config.grid would be scored with config.{key}={value!r}, others with {other!r}; one "
            "table needs one test: remove the key from the row."
        )
