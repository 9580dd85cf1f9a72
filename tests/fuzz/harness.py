"""Feeding a part of fedsim with bad input: a case ends as a valid outcome or as one clear line
(ConfigError). Anything else is a failure:

another exception, a message of several lines or of none, a warning beside a refusal, a case without
end, memory by the gigabyte, a file left behind by a refusal, a write outside the case's own folder,
a program started, a pickled object looked up.

A target is an instance of `Target`; a module of this folder that makes some lists them in its
TARGETS, and `targets.py` lists the modules.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis.strategies import SearchStrategy

from fedsim.errors import ConfigError
from fedsim.recording.signature import key_folder

SECONDS = 120  # a case that takes longer hangs; the slowest take well under one
MEMORY = 3 << 29  # bytes that a case may ask for
LONGEST = 1500  # characters of a clear line


@dataclass(frozen=True)
class Target:
    """What is fed.

    name; cases: strategy of the input; run(case, folder): what fedsim does with it, refusing by a
    ConfigError or by returning its line; put(case, folder): writes the files of a case first;
    records: a valid case may leave files in the folder; settings: input is settings, whose sizes a
    user may mean, and not a file, whose header must not ask for memory; share: its part of the
    cases of a long run, beside the shares of the others.
    """

    name: str
    cases: SearchStrategy
    run: Callable[[Any, Path], Any]
    put: Callable[[Any, Path], None] = lambda case, folder: None
    records: bool = False
    settings: bool = False
    share: float = 1.0


@dataclass
class Tally:
    """How the cases of a target ended. failures: by what happened and where, the shortest input
    that did it."""

    valid: int = 0
    refused: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    failed: int = 0
    messages: Counter[str] = field(default_factory=Counter)

    @property
    def cases(self) -> int:
        return self.valid + self.refused + self.failed


class Failure(AssertionError):
    """A case that ended neither valid nor refused. where: what happened, the same for inputs that
    fail alike."""

    def __init__(self, where: str, detail: str = "") -> None:
        super().__init__(f"{where}\n{detail}".strip())
        self.where = where


class _Hang(BaseException):
    pass


class _Guard:
    """Notes what no input may make fedsim do. Audit hooks cannot be taken away again, so there is
    one, which listens during a case."""

    _RUNS = (
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "subprocess.Popen",
        "pickle.find_class",
        "shutil.unpack_archive",
        "os.fork",
    )
    _WRITES = (
        "os.mkdir",
        "os.rename",
        "os.link",
        "os.symlink",
        "os.remove",
        "os.rmdir",
        "os.truncate",
        "os.chmod",
    )
    # What libraries keep for all programs
    _SHARED = (os.devnull, "/dev/shm/", os.path.join(tempfile.gettempdir(), "torchinductor_"))

    def __init__(self) -> None:
        self.folder: str | None = None
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple) -> None:
        if self.folder is None:
            return
        if event in self._RUNS or (
            event == "socket.connect" and "127.0.0.1" not in str(arguments[1])
        ):
            self._refuse(event, arguments)
        elif event == "open":
            path, mode, flags = arguments
            if isinstance(path, str | bytes) and (
                (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
                or set(mode or "") & set("wax+")
            ):
                self._check(event, path, arguments)
        elif event in self._WRITES:
            for path in arguments[: 2 if event in ("os.rename", "os.link") else 1]:
                self._check(event, path, arguments)

    def _check(self, event: str, path: Any, arguments: tuple) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            where = os.path.abspath(os.fsdecode(path))
            if not (where + "/").startswith((f"{self.folder}/", f"{key_folder()}/", *self._SHARED)):
                self._refuse(event, arguments)

    def _refuse(self, event: str, arguments: tuple) -> None:
        self.seen.append(f"{event}{arguments!r:.200}")
        raise PermissionError(1, f"{event} during a fuzzed case")


_guard = _Guard()


@contextlib.contextmanager
def _guarded(folder: Path) -> Iterator[None]:
    """Limits on time and memory, and the guard; the working folder is `folder`."""

    def alarm(*_: object) -> None:
        raise _Hang

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    here, bytecode, handler = (
        os.getcwd(),
        sys.dont_write_bytecode,
        signal.signal(signal.SIGALRM, alarm),
    )
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
    sys.dont_write_bytecode = True
    os.chdir(folder)
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    _guard.folder, _guard.seen = str(folder), []
    try:
        yield
    finally:
        _guard.folder = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, handler)
        sys.dont_write_bytecode = bytecode
        os.chdir(here)


def run_case(target: Target, case: Any, folder: Path) -> str:
    """Run one case in an empty `folder`: "" for a valid outcome, else the line it is refused with.
    Raises Failure."""
    target.put(case, folder)
    before = _listing(folder)
    refusal: ConfigError | None = None
    line: str | None = None
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        warnings.simplefilter(
            "ignore",
            (DeprecationWarning, PendingDeprecationWarning, ResourceWarning, ImportWarning),
        )
        try:
            with _guarded(folder):
                line = target.run(case, folder)
        except ConfigError as error:
            refusal = error
        except Failure:
            raise
        except _Hang:
            raise Failure(f"no end after {SECONDS} s", traceback.format_exc()) from None
        except (Exception, SystemExit) as error:
            raise Failure(
                _place(error), "".join(traceback.format_exception(error)[-12:])
            ) from error
    if _guard.seen:
        raise Failure("does what input must not make it do", "\n".join(_guard.seen))
    if refusal is None and not line:
        if not target.records and _listing(folder) != before:
            raise Failure(
                "writes files", str(sorted(set(_listing(folder).items()) ^ set(before.items())))
            )
        return ""
    if _listing(folder) != before:
        raise Failure(
            "leaves files behind", str(sorted(set(_listing(folder).items()) ^ set(before.items())))
        )
    line = check_line(str(refusal)) if refusal is not None else str(line)
    if shown:
        where = f"{shown[0].category.__name__} at {Path(shown[0].filename).name}"
        raise Failure(f"warns beside a refusal: {where}", f"{shown[0].message}\n{line}")
    if not target.settings and any(isinstance(each, MemoryError) for each in _chain(refusal)):
        raise Failure(
            "asks for memory by the gigabyte",
            "".join(traceback.format_exception(refusal.__context__)),
        )
    return line


def check_line(text: str) -> str:
    """`text` if it is one clear line. Raises Failure."""
    if not text.strip() or len(text) > LONGEST or not text.isprintable():
        raise Failure(f"no clear line ({len(text)} characters)", repr(text[:3000]))
    return text


def explore(target: Target, cases: int, seed: int | None = None, collect: bool = False) -> Tally:
    """Run so many cases. seed: None repeats the same cases each time; collect: failures are
    tallied, and the search goes on; else the first is made as small as can be and raised."""
    tally, root = Tally(), Path(tempfile.mkdtemp(prefix="fuzz-"))
    place = root / "a" / "b"
    place.mkdir(parents=True)
    counting = hypothesis.Phase.generate, hypothesis.Phase.shrink
    settings = hypothesis.settings(
        max_examples=cases,
        deadline=None,
        database=None,
        derandomize=seed is None,
        phases=counting,
        suppress_health_check=list(hypothesis.HealthCheck),
    )

    @settings
    @hypothesis.given(target.cases)
    def each(case: Any) -> None:
        folder = Path(tempfile.mkdtemp(dir=place))
        try:
            line = run_case(target, case, folder)
            tally.refused += bool(line)
            tally.valid += not line
            tally.messages[line.partition(":")[0].partition("=")[0]] += 1
        except Failure as failure:
            tally.failed += 1
            shown = f"{case!r}\n{failure}"
            if len(shown) < len(tally.failures.get(failure.where, " " * 10**7)):
                tally.failures[failure.where] = shown
            if not collect:
                raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if sorted(root.rglob("*")) != [root / "a", place]:
            raise Failure("leaves its folder", str(sorted(root.rglob("*"))))

    try:
        (hypothesis.seed(seed)(each) if seed is not None else each)()
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return tally


def _listing(folder: Path) -> dict[str, int]:
    found = {}
    for parent, folders, files in os.walk(os.fsencode(folder)):
        for name in folders + files:
            found[os.fsdecode(os.path.join(parent, name))] = (
                os.lstat(os.path.join(parent, name)).st_size if name in files else -1
            )
    return found


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _place(error: BaseException) -> str:
    """Kind of an exception and the last line of fedsim's that it came through."""
    own = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "/fedsim/" in frame.filename
    ]
    last = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "elsewhere"
    return f"{type(error).__name__} at {last}"
