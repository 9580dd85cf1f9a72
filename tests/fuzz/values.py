"""Values that are easily not thought of."""

from __future__ import annotations

import decimal
import fractions
import pathlib

import numpy as np
from hypothesis import strategies as st

NUMBERS = [
    *"0 1 2 3 5 7 16 0.5 0.1 0.99 1.0 1.5 -1 -0.0 1e-3 1e3 1_0 0x10 010".split(),
    *"1e-320 5e-324 1e-45 1e38 3.5e38 1e308 1e400 -1e400".split(),
    *"nan .nan inf -inf .inf NaN Infinity".split(),
    *"2147483647 2147483648 4294967296 1000000000000 9223372036854775807 9223372036854775808"
    " 18446744073709551616".split(),
    *("-9223372036854775809", "1" + 30 * "0", "1" + 5000 * "0", "1" + 400 * "0" + ".0", "2" * 20),
]
NAMES = [
    *"null None true false yes none labels auto a é ß ² ٣ 🙂".split(),
    *("x y", "\u202e", "\ud800", "\x1b[31m", "\x07", "x" * 300),
    *".. ../up ../../../../tmp/fuzz / /tmp/fuzz/x . ~ a/b a\\b - -- _target_ __class__".split(),
]
SHORT_NAMES = [name for name in NAMES if len(name) < 100]
TOKENS = [
    *NUMBERS,
    *NAMES,
    *", ,, \" ' [ ] { } < > &a *a # % !!python/object:os.system".split(),
    "",
    " ",
    "\n",
    "\x00",
]


def numbers() -> st.SearchStrategy:
    """Python's numbers: small, extreme and not finite."""
    small = st.integers(-1, 12) | st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0, 2.0, -0.5])
    extreme = [
        2**31 - 1,
        2**31,
        10**12,
        2**53 + 1,
        2**63 - 1,
        2**63,
        2**64,
        -(2**63) - 1,
        10**30,
        10**400,
    ]
    odd = [
        5e-324,
        1e-320,
        1e-45,
        1e-300,
        1e38,
        1e300,
        1.7e308,
        float("nan"),
        float("inf"),
        -float("inf"),
        -0.0,
    ]
    return small | small | st.sampled_from([*extreme, *odd])


def plain_values() -> st.SearchStrategy:
    """What YAML can hold."""
    leaves = (
        st.none()
        | st.booleans()
        | numbers()
        | st.sampled_from(SHORT_NAMES)
        | st.sampled_from(NUMBERS)
    )

    def containers(inner: st.SearchStrategy) -> st.SearchStrategy:
        return st.lists(inner, max_size=4) | st.dictionaries(
            st.sampled_from(NAMES[:18]), inner, max_size=3
        )

    return st.recursive(leaves, containers, max_leaves=6)


def python_values() -> st.SearchStrategy:
    """What a caller in Python can hold."""
    itself: list = []
    itself.append(itself)
    odd = [
        *(
            b"bytes",
            bytearray(b"x"),
            1 + 2j,
            decimal.Decimal("NaN"),
            decimal.Decimal(3),
            fractions.Fraction(1, 3),
            pathlib.Path("/"),
        ),
        *(
            np.float32("nan"),
            np.int64(3),
            np.array(3),
            np.array([1, 2]),
            np.array([]),
            np.bool_(True),
            range(3),
            {1, 2},
            frozenset(),
        ),
        *(
            itself,
            len,
            object,
            Exception("x"),
            (),
            (1,),
            ...,
            NotImplemented,
            "x" * 10_000,
            [[]] * 3,
            {None: None},
            {"": ""},
        ),
        list(range(1000)),
    ]
    return plain_values() | numbers() | st.sampled_from(odd)
