"""Seeds: stable between versions, and different for everything that is drawn."""

from __future__ import annotations

from pipeline.seeds import derive_seed


def test_seeds_are_stable_and_distinct() -> None:
    places = [
        (seed, number, replicate, epoch)
        for seed in (0, 1)
        for number in (0, 1, 2)
        for replicate in (0, 1)
        for epoch in range(4)
    ]
    parts = [(*place, purpose) for place in places for purpose in ("weights", "dropout", "shuffle", "noise")]
    found = [derive_seed(*part) for part in [*parts, ("val",), ("select",), ("test",), ("baseline",)]]
    assert len(set(found)) == len(found)
    assert all(0 <= seed < 2**63 for seed in found)
    # numpy.random.SeedSequence(0).generate_state(1, np.uint64)[0] is 15793235383387715774, by NumPy's documentation
    # the same in every version.
    assert derive_seed(0) == 15793235383387715774 >> 1
