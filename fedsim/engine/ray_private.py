"""A Ray session of fedsim's own on this machine: closed to the network and to its other users.

Ray's servers on localhost obey everybody who reaches them, so each session has a random token that
they ask for. Its sockets and logs are in a folder of mode 0700, which goes with the session.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from fedsim.engine.own_folders import TEMPORARY_PREFIX, OwnFolder, temporary_places
from fedsim.errors import require

# Which scale clusters, show workers' output, and show pages
UNNEEDED = ("start_monitor", "start_log_monitor", "start_api_server")
TOKEN = "RAY_AUTH_TOKEN"
TOKEN_PREFIX = "fedsim-"  # by which workers know that a token is ours
RAY_FOLDER = "r"  # within ours, since Ray lets everybody into the folder it is given
# A socket's path within its place, at most: our folder, Ray's, its session's, the socket's
LONGEST_SESSION = "session_2026-12-31_23-59-59_999999_9999999/sockets/plasma_store"
LONGEST_PATH = len(f"/{TEMPORARY_PREFIX}9999999-12345678/{RAY_FOLDER}/{LONGEST_SESSION}")
LONGEST_ADDRESS = 107 if sys.platform == "linux" else 103  # bytes of the path of a socket
starting = threading.Lock()  # what a start changes is the whole process's


def start_private(**settings: Any) -> None:
    """Start a Ray session and join it.

    Args:
        settings: of `ray.init`.

    Raises:
        ConfigError: where this version of Ray has no tokens.
    """
    import ray

    with starting:
        folder = OwnFolder(_place(), TEMPORARY_PREFIX)

        def end() -> None:
            folder.remove()
            _read_environment()  # Ray would keep the token for the next session of this process

        try:
            with _token(), _alone():
                temporary = str(folder.path / RAY_FOLDER)
                own = {"address": "local", "include_dashboard": False, "_temp_dir": temporary}
                own["job_config"] = _job_config()
                ray.init(**{**own, **settings})
                _at_its_end(end)
        except BaseException:
            with contextlib.suppress(Exception):
                ray.shutdown()
            end()
            raise


class _Folders(list):
    """Folders that workers look into before their libraries. Ray adds the current one, in which a
    file of somebody's would stand for a library; kept are those where this process does so too, and
    where fedsim lies. The others are handed to workers to look into last
    (`fedsim.engine.ray.Host`)."""

    def extend(self, folders: Iterable[str]) -> None:
        first = [os.path.realpath(place) for place in sys.path[: _libraries_begin()]]
        first.append(os.path.realpath(Path(__file__).parents[2]))
        super().extend(folder for folder in folders if os.path.realpath(folder) in first)


def _libraries_begin() -> int:
    """Where in this process' list of folders to import from the installed packages begin."""
    installed = sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")
    found = (place for place, folder in enumerate(sys.path) if folder in installed)
    return next(found, len(sys.path))


def _job_config() -> Any:
    from ray.job_config import JobConfig

    config = JobConfig()
    config._py_driver_sys_path = _Folders()
    return config


def hide_token() -> None:
    """In a worker: keep the token of our session, which Ray has read, from programs it starts."""
    if os.environ.get(TOKEN, "").startswith(TOKEN_PREFIX):
        _inside_ray().AuthenticationTokenLoader.instance().has_token()  # read now, if not before
        for name in _asking(""):
            os.environ.pop(name, None)


def _place() -> Path:
    """The temporary folder that is wanted, or /tmp where sockets in it would have too long
    paths."""
    places = temporary_places()
    longest = LONGEST_ADDRESS - LONGEST_PATH
    fits = (place for place in places if len(os.fsencode(place)) <= longest)
    return next(fits, places[-1])


def _asking(token: str) -> dict[str, str]:
    """What lets the processes of a Ray session ask each other for this token."""
    kubernetes = {"RAY_ENABLE_K8S_TOKEN_AUTH": "0"}  # whose tokens would be accepted instead
    return {"RAY_AUTH_MODE": "token", TOKEN: token, **kubernetes}


@contextlib.contextmanager
def _token() -> Iterator[None]:
    """Let a Ray session that starts here ask for a new random token. Ray reads it from the
    environment, once: the session's processes have it from there, this one keeps it."""
    ours = _asking(TOKEN_PREFIX + secrets.token_hex(32))
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        asked = _read_environment()
        require(asked, "engine", "ray", "this version of Ray has no tokens; install Ray 2.55")
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _read_environment() -> bool:
    """Let Ray read anew what it keeps from its environment; whether it asks for a token."""
    inside = _inside_ray()
    try:
        inside.AuthenticationTokenLoader.instance().reset_cache()
        inside.Config.initialize("")
        return inside.get_authentication_mode() == inside.AuthenticationMode.TOKEN
    except AttributeError:  # of a version that is older, or much newer
        return False


def _inside_ray() -> Any:
    from ray import _raylet

    return _raylet


def _at_its_end(then: Callable[[], None]) -> None:
    """Call `then` after the processes of the session that runs now have been ended, which Ray does
    in `ray.shutdown`, or when this process ends."""
    from ray._private import worker

    node: Any = worker._global_node
    kill = node.kill_all_processes

    def kill_all(*arguments: Any, **settings: Any) -> None:
        try:
            kill(*arguments, **settings)
        finally:
            then()

    node.kill_all_processes = kill_all


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Let a Ray session that starts here listen on localhost only, and leave out the processes that
    it does not need, which take a third of the time until it is there.

    The first is Ray's own way where it has no clusters (macOS); elsewhere its servers listen to the
    whole network, and the address given for the node, if it is localhost, is replaced. What a
    version of Ray does not have is not changed.
    """
    from ray._private import node, ray_constants

    with contextlib.ExitStack() as changes:
        changes.enter_context(_changed(ray_constants, "ENABLE_RAY_CLUSTER", False))
        for start in UNNEEDED:
            changes.enter_context(_changed(node.Node, start, _nothing))
        yield


def _nothing(*arguments: Any, **settings: Any) -> None:
    """In place of a method that starts a process."""


@contextlib.contextmanager
def _changed(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name, None)
    if before is None:
        yield
        return
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
