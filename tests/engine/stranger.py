"""What another user of the machine would try with the servers of a Ray session.

    python -m tests.engine.stranger '{"gcs_server": [PORT], "raylet": [PORT, PORT], ...}'

Prints what was answered, as JSON. Without a token.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Callable
from typing import Any

import grpc
from ray.core.generated import (
    core_worker_pb2,
    core_worker_pb2_grpc,
    gcs_service_pb2,
    gcs_service_pb2_grpc,
    node_manager_pb2,
    node_manager_pb2_grpc,
    runtime_env_agent_pb2,
)

SECONDS = 10  # for an answer
FUNCTIONS = b"fun"  # where Ray keeps the classes of actors, pickled
FREE_OBJECTS = "/ray.rpc.ObjectManagerService/FreeObjects"


def overwrite_class(port: int) -> None:
    """Read the class of the actors and write it back; anything else would be run by the next
    one."""
    store = gcs_service_pb2_grpc.InternalKVGcsServiceStub(channel(port))
    asked = gcs_service_pb2.InternalKVKeysRequest(namespace=FUNCTIONS)
    keys = store.InternalKVKeys(asked, timeout=SECONDS).results
    key = next(key for key in keys if key.startswith(b"ActorClass"))
    wanted = gcs_service_pb2.InternalKVGetRequest(namespace=FUNCTIONS, key=key)
    found = store.InternalKVGet(wanted, timeout=SECONDS).value
    put = gcs_service_pb2.InternalKVPutRequest(namespace=FUNCTIONS, key=key, value=found)
    put.overwrite = True
    store.InternalKVPut(put, timeout=SECONDS)


def ask_worker(port: int) -> None:
    stub = core_worker_pb2_grpc.CoreWorkerServiceStub(channel(port))
    stub.GetCoreWorkerStats(core_worker_pb2.GetCoreWorkerStatsRequest(), timeout=SECONDS)


def ask_node(port: int) -> None:
    stub = node_manager_pb2_grpc.NodeManagerServiceStub(channel(port))
    stub.GetNodeStats(node_manager_pb2.GetNodeStatsRequest(), timeout=SECONDS)


def free_objects(port: int) -> None:
    ask = channel(port).unary_unary(FREE_OBJECTS, bytes, bytes)
    ask(b"", timeout=SECONDS)


def make_environment(port: int) -> None:
    """The agent would install packages."""
    wanted = runtime_env_agent_pb2.GetOrCreateRuntimeEnvRequest(serialized_runtime_env="{}")
    address = f"http://127.0.0.1:{port}/get_or_create_runtime_env"
    urllib.request.urlopen(address, wanted.SerializeToString(), timeout=SECONDS).close()


ATTEMPTS = (overwrite_class, ask_worker, ask_node, free_objects, make_environment)


def channel(port: int) -> Any:
    return grpc.insecure_channel(f"127.0.0.1:{port}")


def answered(attempt: Callable[[int], None], port: int) -> bool:
    try:
        attempt(port)
    except (grpc.RpcError, OSError):  # refused, or a server of another kind
        return False
    return True


def main(servers: dict[str, list[int]]) -> list[tuple[str, str]]:
    """Which server obeyed which attempt."""
    found = []
    for name, ports in servers.items():
        for port in ports:
            for attempt in ATTEMPTS:
                if attempt is make_environment and "Agent" not in name:
                    continue
                if answered(attempt, port):
                    found.append((name, attempt.__name__))
    return found


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
