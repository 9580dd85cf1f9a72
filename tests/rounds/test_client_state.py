"""Rows of kept state: no row is ever written that somebody reads."""

import numpy as np
from hypothesis import given, strategies as st

from fedsim.rounds.client_state import FreeRows


@given(cohorts=st.lists(st.sets(st.integers(0, 9), max_size=10), max_size=20), lost=st.data())
def test_rows_follow_their_owners(cohorts, lost):
    """Against a plain dictionary: what a client's row holds is what was last committed for it, and
    rows stay few."""
    rows, memory, truth, largest = FreeRows(10), {}, {}, 0
    for round, cohort in enumerate(cohorts):
        clients = np.array(sorted(cohort), np.int64)
        assert [memory.get(int(row)) for row in rows.row[clients]] == [
            truth.get(int(client)) for client in clients
        ]
        write = rows.claim(len(clients))
        in_use = rows.row[rows.row >= 0]
        assert len(set(write)) == len(write) and not set(write) & set(in_use)
        memory |= {
            int(row): (round, int(client)) for row, client in zip(write, clients, strict=True)
        }
        heard = np.array([lost.draw(st.booleans()) for _ in clients], bool)
        rows.release(write[~heard])
        rows.commit(clients[heard], write[heard])
        truth |= {int(client): (round, int(client)) for client in clients[heard]}
        largest = max(largest, len(clients))
        assert rows.used <= len(truth) + largest
    assert set(rows.owners) == set(truth)


def test_a_restored_table_owns_the_first_rows():
    rows = FreeRows(6)
    rows.commit(np.array([1, 4]), rows.claim(2))
    owners = rows.owners
    again = FreeRows(6)
    np.testing.assert_array_equal(again.restore(owners), [0, 1])
    np.testing.assert_array_equal(again.owners, [1, 4])
    assert set(again.claim(2)) == {2, 3}
