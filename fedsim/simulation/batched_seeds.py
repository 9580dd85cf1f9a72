"""Several simulations as one: their clients are trained in common calls, which pays where each
alone has few clients a round."""

from __future__ import annotations

import copy
import functools
import signal
import threading
from collections.abc import Sequence
from dataclasses import replace

from fedsim.engine.inprocess import InProcess
from fedsim.errors import require
from fedsim.simulation.batched_engine import Meeting, Together, equal
from fedsim.simulation.interruption import Interruption, led_by
from fedsim.simulation.result import Result
from fedsim.simulation.simulation import Simulation

STOP_SECONDS = 30  # until runs have ended that are interrupted in the middle of a round


def run_together(
    simulations: Sequence[Simulation], resume: Sequence[bool] | None = None
) -> list[Result | BaseException]:
    """Run simulations that differ in the seed alone; of each its result, or what it raised.

    Each gives what it gives alone, bit for bit, on a GPU within rounding; what they differ in
    besides (the rule, the rate, how inputs are normalised, the width of batches) costs speed, since
    then they are not trained together, and so do batches and layers of odd sizes: on some
    processors products depend on where in memory a matrix begins. resume: as for `Simulation.run`,
    of each. Raises ConfigError for an engine other than InProcess, and Interrupted when all have
    been interrupted.
    """
    for simulation in simulations:
        name = type(simulation.engine).__name__
        require(
            isinstance(simulation.engine, InProcess),
            "engine",
            name,
            "runs are trained together in one process; use engine=inprocess",
        )
    meeting, found = Meeting(len(simulations)), dict[int, Result | BaseException]()
    # A join that a signal interrupts takes its thread for ended, up to Python 3.12
    over = [threading.Event() for _ in simulations]
    patient = all(simulation.folder is not None for simulation in simulations)

    def run(number: int, simulation: Simulation) -> None:
        meeting.begin(number)
        with led_by(interruption):
            try:
                found[number] = simulation.run(resume=resume is not None and resume[number])
            except BaseException as error:  # with an Interrupted, which the leader raises for all
                found[number] = error
            finally:
                meeting.pass_on()
                over[number].set()

    with Interruption() as interruption:
        threads = []
        for number, simulation in enumerate(simulations):
            engine = Together(meeting, _kind(simulations, number), simulation.engine.device)
            config, loggers = (
                simulation.config or simulation.describe(),
                [copy.copy(logger) for logger in simulation.loggers],
            )
            own = replace(simulation, engine=engine, config=config, loggers=loggers)
            threads.append(
                threading.Thread(target=run, args=(number, own), name=f"run {number}", daemon=True)
            )
            threads[-1].start()
        meeting.pass_on()
        try:
            for each in over:
                while not each.wait(0.1):
                    interruption.patient = patient and meeting.began
        except KeyboardInterrupt as stop:
            meeting.stop = getattr(stop, "signal", signal.SIGINT)
            raise
        finally:
            for thread in threads:
                thread.join(STOP_SECONDS)
        interruption.check()
    return [found[number] for number in range(len(simulations))]


def _kind(simulations: Sequence[Simulation], number: int) -> int:
    """The first simulation with the same model."""
    model = _model(simulations[number])
    return next(
        (n for n, each in enumerate(simulations[:number]) if equal(_model(each), model)), number
    )


def _model(simulation: Simulation) -> tuple:
    model = simulation.model
    return (
        (model.func, model.args, model.keywords)
        if isinstance(model, functools.partial)
        else (model,)
    )
