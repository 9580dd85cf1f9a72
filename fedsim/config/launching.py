"""Hydra's command line: one run, or a sweep of many on one of Hydra's launchers. Only this file and
`composition` import Hydra.

A sweep's folder is named by what it sweeps over, a run's by its values and its key
(`fedsim.config.sweeps`), so that a sweep that is started again finds what it has.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedsim.config.building import GROUPS, METRICS, PRESETS, Settings
from fedsim.config.composition import (
    VERSION,
    composed,
    explaining,
    hydra_state,
    opened,
    overrides_in,
    searching,
    settings_in,
)
from fedsim.config.options import OPTIONS
from fedsim.config.processes import LAST_WORDS, end_workers, in_worker, leading
from fedsim.config.running import (
    failures,
    record_failure,
    run_job,
    run_one,
    run_seeds,
    seed_folders,
    seeds_key,
    state_of,
    states,
)
from fedsim.config.sweeps import (
    Typed,
    check_name,
    digest,
    job_folder,
    job_key,
    sweep_name,
    swept_keys,
)
from fedsim.errors import ConfigError, require
from fedsim.recording.files import shown
from fedsim.simulation.interruption import Interrupted

# An option that is no name within its group
_AWAY = re.compile(r"(^|[,\s\[(])/|(^|[/,\s\[(])\.\.?(/|$)|\\")
_RAY = (
    "would start a Ray session in each of the launcher's processes, for the same CPUs; leave out"
    " hydra/launcher, so that one run after "
)
_RAY += "the other has all of engine=ray, or use engine=inprocess"


class Folders(Callback):
    """Knows which folders Hydra makes, so that a run that is refused leaves none behind; refuses
    what must be refused before."""

    made: ClassVar[list[Path]] = []  # a folder, then those above it that are new with it
    sweep: ClassVar[Path | None] = None  # of a multirun, in the process that has started it
    before: ClassVar[dict[Path, Any]] = {}  # the runs that it held already
    processes: ClassVar[contextlib.ExitStack]  # for the time that a multirun has worker processes

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        with _looking(config):
            typed = dict(override.partition("=")[::2] for override in overrides_in(config.hydra))
            require(
                "sweep" not in typed,
                "sweep",
                typed.get("sweep"),
                "names the folder of several runs; add -m, or use name=",
            )
            check_name("name", config.name)
        self._note(config, "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        with _looking(config):
            several = [
                each.values for each in _typed(config.hydra) if each.key == "sweep" and each.swept
            ]
            require(not several, "sweep", "".join(several), "accepted is one name for all runs")
            check_name("sweep", config.sweep)
            if not (alone := _alone(config.hydra)):
                _refuse_ray(config.hydra)
                Folders.processes.callback(end_workers)
            Folders.processes.enter_context(leading(workers=not alone))
            # now, while it is known what is swept over
            OmegaConf.select(config, "hydra.sweep.subdir")
        Folders.sweep = self._note(config, "hydra.sweep.dir")
        Folders.before = states(Folders.sweep) if Folders.sweep is not None else {}

    @classmethod
    def _note(cls, config: DictConfig, key: str) -> Path | None:
        folder = None
        with _looking(config):
            folder = Path(str(OmegaConf.select(config, key))).absolute()
            cls.made = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
        return folder

    @classmethod
    def discard(cls) -> None:
        """Remove the folders made if they hold no run."""
        with contextlib.suppress(OSError):
            if cls.made and [path.name for path in cls.made[0].iterdir()] == ["multirun.yaml"]:
                (cls.made[0] / "multirun.yaml").unlink()
        with contextlib.suppress(OSError):
            for path in cls.made:
                path.rmdir()


class Escape(BaseException):
    """Carries an error out of Hydra, which would print lines of its own for an Exception."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def launch(
    arguments: Sequence[str], config_dir: Path | str | None = None
) -> tuple[Path, list[tuple[str, str]]] | None:
    """Do what these arguments of Hydra's command line say. Of a multirun: its folder, and (run
    folder, reason) of the runs that failed; else None. Raises what a single run raises, and
    ConfigError."""
    _check_arguments(arguments)
    Folders.made, Folders.sweep, Folders.before = [], None, {}
    with hydra_state(), searching(config_dir), _command_line(arguments):
        try:
            with (
                contextlib.ExitStack() as Folders.processes,
                explaining(arguments),
                _folder_refused(),
            ):
                hydra.main(version_base=VERSION, config_path=str(OPTIONS), config_name="config")(
                    _task
                )()
        except BaseException as error:
            Folders.discard()
            raise (error.error if isinstance(error, Escape) else error) from error.__cause__
    return (
        None if Folders.sweep is None else (Folders.sweep, failures(Folders.sweep, Folders.before))
    )


def _task(cfg: DictConfig) -> float:
    """One run: alone, or a job of a multirun, in this process or in a worker of the launcher's."""
    known = HydraConfig.get()
    if known.mode == RunMode.MULTIRUN:
        if Folders.sweep is not None:
            return _job(cfg, known, not _alone(known))
        value = in_worker(lambda: _job(cfg, known, True))
        return math.nan if value is None else value
    try:
        settings = Settings({}, {}, overrides_in(known))
        with explaining(settings.overrides):
            settings = settings_in(cfg)
        folder = Path(known.runtime.output_dir)
        if not settings.seeds:
            return run_one(settings, folder)
        try:
            return run_seeds(settings, seed_folders(settings, folder, in_sweep=False))
        except Interrupted as stop:
            line = (
                f"interrupted; the same command with hydra.run.dir={shown(folder)} goes on with"
                " what is missing"
            )
            raise Interrupted(stop.signal, stop.round, line) from None
    except Exception as error:
        raise Escape(error) from error


def _job(cfg: DictConfig, known: Any, beside_others: bool) -> float:
    """A job of a multirun: its failure is recorded, and the other jobs go on."""
    folder, settings = Path(known.runtime.output_dir), Settings({}, {}, overrides_in(known))
    try:
        with explaining(settings.overrides):
            settings = settings_in(cfg)
        if beside_others:
            require(not _on_ray(settings), "engine", "ray", _RAY)
    except Exception as error:
        record_failure(settings, folder, error)
        return math.nan
    try:
        if settings.seeds:
            with contextlib.suppress(OSError):
                folder.rmdir()  # Hydra's, for one run
            return run_seeds(
                settings,
                seed_folders(settings, folder, in_sweep=True),
                False if beside_others else None,
                record=True,
            )
        # Several bars at once would write over each other
        return run_job(settings, folder, False if beside_others else None)
    except Interrupted as stop:
        raise Interrupted(stop.signal, stop.round, f"{stop}; {LAST_WORDS}") from None
    except Exception:
        # Not even that could be written: Hydra goes on, and raises it in the end
        if state_of(folder) != "failed":
            raise
        return math.nan


def _alone(known: Any) -> bool:
    """Whether one job runs after the other, in this process."""
    return (
        known.runtime.choices.get("hydra/launcher") == "basic" or known.launcher.get("n_jobs") == 1
    )


def _refuse_ray(known: Any) -> None:
    """Refuse Ray beneath a launcher with processes of its own, before anything starts. Only what
    can choose an engine is looked at here; a job that comes by it in another way is refused by
    itself."""
    lines = [
        line for line in _lines(known) if re.match(rf"\+*({'|'.join(PRESETS)}|engine)[=.]", line)
    ]
    for overrides in BasicSweeper.split_arguments(
        OverridesParser.create().parse_overrides(lines), None
    )[0]:
        with hydra_state():
            require(
                not _on_ray(composed(overrides)),
                "engine",
                "ray",
                f"hydra/launcher={known.runtime.choices['hydra/launcher']} {_RAY}",
            )


def _on_ray(settings: Settings) -> bool:
    return str(settings.config["engine"].get("_target_")).rpartition(".")[2] == "Ray"


def _lines(known: Any) -> list[str]:
    """All that a multirun is given: what its sweeper has from the configuration, and what was
    typed."""
    params = known.sweeper.get("params") or {}
    return [f"{key}={value}" for key, value in params.items()] + [
        str(line) for line in known.overrides.task
    ]


def _typed(known: Any) -> list[Typed]:
    found = {
        each.key_or_group: each for each in OverridesParser.create().parse_overrides(_lines(known))
    }
    return [Typed(key, _values(each), each.is_sweep_override()) for key, each in found.items()]


def _values(override: Override) -> str:
    return str(override.input_line).partition("=")[2]


def _swept(what: str) -> str:
    """The resolver of ${swept:name} and ${swept:keys}: resolved once for a multirun, and handed on
    to its jobs."""
    typed = _typed(HydraConfig.get())
    return sweep_name(typed) if what == "name" else ",".join(swept_keys(typed))


def _folder(swept: str, *, _root_: DictConfig) -> str:
    """The resolver of ${job_folder:...}: the name of a job's folder."""
    known = HydraConfig.get()
    typed = {each.key: each.values for each in _typed(known)}
    try:
        settings = settings_in(_root_)
        key = seeds_key(settings.config) if settings.seeds else job_key(settings.config)
    except Exception:  # the job will meet it again, and record it
        key = digest(" ".join(sorted(f"{name}={value}" for name, value in typed.items())))
    values = {name: typed[name] for name in swept.split(",") if name in typed}
    return job_folder(Path(str(OmegaConf.select(_root_, "hydra.sweep.dir"))), values, key)


OmegaConf.register_new_resolver("swept", _swept, replace=True, use_cache=True)
OmegaConf.register_new_resolver("job_folder", _folder, replace=True)


def _check_arguments(arguments: Sequence[str]) -> None:
    """Refuse, in one line, flags that Hydra does not know or that lead out of fedsim's options, and
    options that are no names."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise ConfigError(
            "arguments", " ".join(arguments), f"{message}; fedsim run --hydra-help shows the flags"
        )

    parser.error = refuse  # type: ignore[method-assign, assignment]
    known, unknown = parser.parse_known_args(list(arguments))
    require(
        not unknown,
        "arguments",
        " ".join(unknown),
        "unknown flag; fedsim run --hydra-help shows what is accepted",
    )
    require(
        known.config_path is None,
        "--config-path",
        known.config_path,
        "use --config-dir for options of your own",
    )
    require(
        known.experimental_rerun is None,
        "--experimental-rerun",
        known.experimental_rerun,
        "unpickles a file; use resume=FOLDER",
    )
    name = known.config_name
    require(
        name is None or not _AWAY.search(name),
        "--config-name",
        name,
        "accepted is the name of a configuration, without a path",
    )
    for override in known.overrides:
        key, _, value = override.lstrip("+").partition("=")
        option = key in (*GROUPS, *PRESETS, METRICS) or key.startswith("hydra/")
        require(
            not option or not _AWAY.search(value),
            key,
            value,
            f"accepted is the name of an option; fedsim list {key} shows them",
        )


@contextlib.contextmanager
def _looking(config: DictConfig) -> Iterator[None]:
    """Look into a configuration before Hydra runs it: what is wrong for Hydra, Hydra will say; what
    is wrong for fedsim escapes."""
    with hydra_state(), contextlib.suppress(OmegaConfBaseException):
        HydraConfig.instance().cfg = config  # type: ignore[assignment]
        try:
            yield
        except ConfigError as error:
            raise Escape(error) from error


@contextlib.contextmanager
def _folder_refused() -> Iterator[None]:
    """Explains that Hydra could not make the folder of a run or a sweep."""
    try:
        yield
    except OSError as error:
        if not error.filename:
            raise
        key = "hydra.run.dir" if Folders.sweep is None else "hydra.sweep.dir"
        reason = f"accepted is a folder that can be made and written ({error.strerror})"
        raise ConfigError(key, str(error.filename), reason) from None


@contextlib.contextmanager
def _command_line(arguments: Sequence[str]) -> Iterator[None]:
    """Hydra reads sys.argv, with HYDRA_FULL_ERROR=1 it raises errors instead of printing them, and
    it configures the root logger."""
    before, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = ["fedsim run", *map(opened, arguments)], "1"
    try:
        yield
    finally:
        sys.argv = before
        root.level, root.handlers[:] = level, handlers
        os.environ.pop("HYDRA_FULL_ERROR")
        if full is not None:
            os.environ["HYDRA_FULL_ERROR"] = full
