"""Run folders that a user was sent: what `load_runs`, `failed_runs` and `fedsim compare` read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from fedsim import analysis
from fedsim.recording.recorder import Recorder
from tests.fuzz.damage import damaged_files
from tests.fuzz.data_files import written
from tests.fuzz.harness import Target
from tests.fuzz.values import plain_values


def _config(seed: int) -> dict[str, Any]:
    return {
        "aggregator": {"_target_": "fedsim.algorithms.fedau.FedAU", "cutoff": 50, "rate": 1.0},
        "local": {"rate": 0.1, "steps": 5},
        "seed": seed,
        "rounds": 20,
        "name": "fedau",
        "choices": {"algorithm": "fedau", "participation": "markov"},
    }


def _runs(folder: Path) -> None:
    for seed in range(2):
        recorder = Recorder(
            folder / "sweep" / str(seed), _config(seed), ["algorithm=fedau", f"seed={seed}"]
        )
        recorder.start()
        for round in (0, 10, 20):
            at = {"round": round, "clock": 1.0, "scope": "server"}
            recorder.rows(
                [
                    {**at, "metric": "accuracy", "value": 0.1 + 0.03 * round},
                    {**at, "metric": "loss", "value": 2 - 0.05 * round},
                ]
            )
        recorder._close()
        if seed == 0:
            (recorder.folder / "metrics.parquet").write_bytes(recorder._rows.parquet())
        recorder.status(
            "done" if seed == 0 else "diverged", None if seed == 0 else "the loss is not finite"
        )


def _read(folder: Path) -> None:
    """What `fedsim compare` does, without its picture."""
    analysis.failed_runs(folder)
    analysis.load_runs(folder)
    found = analysis.compare(folder, target=0.5)
    found.to_markdown()


_names = ["config.yaml", "status.json", "overrides.yaml", "metrics.jsonl"]
_LETTERS = list(zip("abcdefghij", "bcdefghijk", strict=True))
_texts = [
    # 9^11 times x
    "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in _LETTERS),
    *(
        "&a [*a]",
        "a: &a {b: *a}",
        "[" * 20_000,
        "{" * 20_000,
        "!!python/object/apply:os.system [touch x]",
        "a: !!binary x",
        "<<: [1]",
    ),
    *(
        "2001-01-01",
        "a: 2001-13-45",
        "? [1, 2]\n: 3",
        "a: 1_0:30:30",
        "=",
        "{a: 1, a: 2}",
        "a:\n\t- b",
        "1" * 5000,
        "a: " + "1" * 5000,
    ),
    *(
        "\ud800",
        "\x00",
        "- 1",
        "1",
        "null",
        "'" * 9,
        "[1]",
        '"x"',
        '{"status": NaN}',
        '{"status": "done", "status": 3}',
    ),
    '{"round": 1e400, "scope": "server", "metric": "accuracy", "value": 1}\n{}',
]


def _json(value: Any) -> str:
    return json.dumps(value, default=str)


def _yaml(value: Any) -> str:
    try:
        text = yaml.safe_dump(value, allow_unicode=True)
        text.encode()
        return text
    except UnicodeEncodeError:  # a name that is none
        return "a: 1"


_content = st.sampled_from(_texts) | plain_values().map(_json)
_config_like = st.fixed_dictionaries(
    {},
    optional={
        "choices": plain_values()
        | st.dictionaries(
            st.sampled_from(["algorithm", "participation", "client"]), plain_values(), max_size=3
        ),
        "overrides": plain_values() | st.lists(plain_values(), max_size=3),
        "aggregator": plain_values() | st.fixed_dictionaries({"_target_": plain_values()}),
        "client": plain_values(),
        "participation": plain_values(),
        "seed": plain_values(),
        "name": plain_values(),
        "run": plain_values(),
        "value": plain_values(),
    },
)
_states = st.sampled_from(["done", "running", "failed", "x"]) | plain_values()
_status_like = st.fixed_dictionaries({"status": _states}, optional={"reason": plain_values()})
_row_like = st.fixed_dictionaries(
    {
        "round": plain_values(),
        "scope": st.just("server") | plain_values(),
        "metric": st.just("accuracy") | plain_values(),
        "value": plain_values(),
    },
    optional={"clock": plain_values(), "node": plain_values(), "more": plain_values()},
)
_documents = st.one_of(
    st.tuples(st.sampled_from(_names), _content),
    st.tuples(st.just("config.yaml"), _config_like.map(_yaml)),
    st.tuples(st.just("status.json"), _status_like.map(_json)),
    st.tuples(
        st.just("metrics.jsonl"),
        st.lists(_row_like.map(_json), min_size=1, max_size=4).map("\n".join),
    ),
)
_originals = written(_runs)()


def _put_document(case: tuple[str, str], folder: Path) -> None:
    for name, content in _originals.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name != "sweep/0/metrics.parquet":
            (folder / name).write_bytes(content)
    (folder / "sweep" / "0" / case[0]).write_bytes(case[1].encode("utf-8", "surrogatepass"))


def _put_name(case: list[str | bytes], folder: Path) -> None:
    for number, name in enumerate(case):
        place = os.path.join(os.fsencode(folder), os.fsencode(name))
        try:
            os.mkdir(place)
        except OSError:
            continue
        for path in (path for path in _originals if path.startswith(f"sweep/{number % 2}/")):
            with open(os.path.join(place, os.fsencode(Path(path).name)), "wb") as file:
                file.write(_originals[path])


_folder_name = st.sampled_from(
    [*"1 ² ٣ 10 é - [bold] | $x$ _".split(), "9" * 200, b"\xff\xfe", "a b", "\x1b[31m", "\n"]
)
_folder_names = st.lists(_folder_name, min_size=1, max_size=3, unique=True)

TARGETS = [
    damaged_files("run folders", lambda: _originals, _read, text=True, share=2),
    damaged_files(
        "run folders without parquet",
        lambda: {name: each for name, each in _originals.items() if "parquet" not in name},
        _read,
        text=True,
    ),
    Target(
        "documents of run folders",
        _documents,
        lambda case, folder: _read(folder),
        _put_document,
        share=2,
    ),
    Target(
        "names of run folders",
        _folder_names,
        lambda case, folder: _read(folder),
        _put_name,
        share=0.3,
    ),
]
