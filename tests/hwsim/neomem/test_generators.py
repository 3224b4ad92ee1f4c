"""Synthetic traces and training steps: as asked, and as their distributions say."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcosim.hwsim.neomem import training
from fedcosim.hwsim.neomem.generators import Generator, Stream, SyntheticOptions, draw, generate
from fedcosim.hwsim.neomem.traces import PIECE
from fedcosim.hwsim.neomem.training import TrainingOptions
from fedcosim.hwsim.simulator import HwsimError, Job


class Looks:
    """A caller who leaves after so many looks whether he has."""

    def __init__(self, patience: float = math.inf) -> None:
        self.taken, self.patience = 0, patience

    def __call__(self) -> bool:
        self.taken += 1
        return self.taken > self.patience


def pages_of(generator: str, pages: int = 1000, accesses: int = 100_000, **own: object) -> np.ndarray:
    options = SyntheticOptions(generator=generator, accesses=accesses, **{generator: own} if own else {})
    return generate(options, pages, 4096, 1).pages_N


@given(
    generator=st.sampled_from(get_args(Generator)),
    pages=st.integers(2, 500),
    accesses=st.integers(1, 3000),
    seed=st.integers(0, 2**40),
)
def test_traces_have_the_length_and_the_pages_asked_for_and_repeat(generator, pages, accesses, seed):
    """For any size, however odd."""
    options = SyntheticOptions(generator=generator, accesses=accesses, write_fraction=0.3)
    trace, again = (generate(options, pages, 4096, seed) for _ in range(2))
    assert len(trace) == len(trace.writes_N) == accesses
    assert trace.pages_N.min() >= 0
    assert trace.pages_N.max() < pages == trace.pages
    assert trace.sha256 == again.sha256


@given(generator=st.sampled_from(get_args(Generator)), piece=st.integers(1, 4000), phases=st.integers(1, 4))
def test_pieces_change_nothing(generator, piece, phases):
    """They are how often it is asked whether to go on."""
    own = {generator: {"phases": phases}} if generator in ("gups", "zipf", "adversary") else {}
    options = SyntheticOptions(generator=generator, accesses=3001, write_fraction=0.3, **own)
    assert generate(options, 300, 4096, 1, piece=piece).sha256 == generate(options, 300, 4096, 1).sha256


@pytest.mark.parametrize("generator", get_args(Generator))
def test_nothing_is_generated_for_callers_who_left(generator):
    """However often it is looked whether they have: after as many looks as there are, but one, there is no trace yet."""
    options = SyntheticOptions(generator=generator, accesses=20_000, write_fraction=0.3)
    looks = Looks()
    generate(options, 300, 4096, 1, Job(cancelled=looks), piece=100)
    assert looks.taken >= 20_000 // 100
    for patience in (0, looks.taken // 2, looks.taken - 1):
        with pytest.raises(HwsimError) as error:
            generate(options, 300, 4096, 1, Job(cancelled=Looks(patience)), piece=100)
        assert error.value.code == "CANCELLED"


def test_gups_hits_its_window_as_often_as_asked():
    """Nine of ten updates, and the window's share of the rest."""
    pages_N = pages_of("gups", hot_share=0.1, hot_start=0.5)
    assert ((pages_N >= 500) & (pages_N < 600)).mean() == pytest.approx(0.9 + 0.1 * 0.1, abs=0.005)


def test_gups_window_moves_with_each_phase():
    """Each half has one window, and they differ."""
    first, second = (np.bincount(half, minlength=1000) for half in np.split(pages_of("gups", phases=2), 2))
    assert set(np.argsort(-first)[:113]) != set(np.argsort(-second)[:113])


def test_drawn_frequencies_are_the_weights():
    """The alias method, by Pearson's statistic: 99 degrees of freedom, 1 in 10^4 above 161."""
    weights = np.arange(1, 101) ** -0.9
    counts = np.bincount(draw(weights, 100_000, Stream(np.random.default_rng(0))), minlength=100)
    expected = 100_000 * weights / weights.sum()
    assert ((counts - expected) ** 2 / expected).sum() < 161


def test_chase_walks_cycles():
    """Between two visits of a hot page all other hot pages are visited once."""
    pages_N = pages_of("pointer_chase", 30, 3000, hot_probability=1.0)
    assert (pages_N[10:] == pages_N[:-10]).all()
    assert len(set(pages_N.tolist())) == 10


def test_search_ends_at_uniform_targets_and_starts_at_one_page():
    """The root of a binary search is in all of them."""
    pages_N = pages_of("search", 1000, 7000, grid_share=0.064, gathers=0).reshape(1000, 7)
    assert len(set(pages_N[:, 0].tolist())) == 1
    assert len(set(pages_N[:, -1].tolist())) == 64


def test_adversary_takes_turns():
    """Two sets without a page in common."""
    turns = np.split(pages_of("adversary", phases=4), 4)
    assert not set(turns[0].tolist()) & set(turns[1].tolist())
    assert set(turns[0].tolist()) == set(turns[2].tolist())
    assert len(set(turns[0].tolist())) == 350


def test_no_training_step_is_generated_for_callers_who_left():
    """It is looked every 2^18 page touches."""
    looks = Looks()
    options = TrainingOptions(param_count=10**6, steps=200)
    trace = training.generate(options, 4096, 1, Job(cancelled=looks))
    assert looks.taken >= len(trace) // PIECE > 0
    with pytest.raises(HwsimError, match="cancelled"):
        training.generate(options, 4096, 1, Job(cancelled=Looks(looks.taken - 1)))


def test_tables_that_would_not_fit_the_machine_are_refused():
    """Items of all pages, 2^24 x 64 here: before memory is asked for."""
    options = SyntheticOptions(generator="gather", accesses=100, gather={"vertex_share": 0.9, "vertices_per_page": 64})
    with pytest.raises(HwsimError, match="choose a larger scale") as error:
        generate(options, 2**24, 4096, 1)
    assert error.value.code == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize(("optimizer", "passes"), [("sgd", 7), ("momentum", 9), ("adam", 11)])
def test_training_step_makes_as_many_passes_over_memory_as_its_optimizer_needs(optimizer, passes):
    """Weights: forward, backward, read, written; gradients: zeroed, written, read; moments: read, written."""
    options = TrainingOptions(param_count=1024 * 100, optimizer=optimizer, steps=3, layers=7)
    trace = training.generate(options, 4096, 1)
    assert len(trace) == 3 * passes * 100
    assert trace.pages == (2 + (passes - 7) // 2) * 100


@given(
    param_count=st.integers(1, 10**6),
    optimizer=st.sampled_from(["sgd", "momentum", "adam"]),
    activation=st.integers(0, 10**5),
    batch=st.integers(1, 64),
    layers=st.integers(1, 50),
    dataset=st.integers(0, 10**7),
    sample=st.integers(0, 10**4),
    scale=st.sampled_from([1, 4, 64]),
)
def test_training_traces_are_as_long_and_as_wide_as_foretold(
    param_count, optimizer, activation, batch, layers, dataset, sample, scale
):
    """Limits are checked by what is foretold, before anything is made."""
    options = TrainingOptions(
        param_count=param_count,
        optimizer=optimizer,
        activation_bytes_per_sample=activation,
        batch=batch,
        layers=layers,
        dataset_bytes=dataset,
        sample_bytes=sample,
        steps=2,
    )
    trace = training.generate(options, 4096, scale)
    assert len(trace) == 2 * training.touches_per_step(options, 4096 * scale)
    assert trace.pages == training.footprint_pages(options, 4096 * scale) > trace.pages_N.max()


def test_data_set_is_read_from_its_beginning_to_its_end_and_again():
    """Three batches of two pages, from a data set of four."""
    options = TrainingOptions(param_count=1, batch=2, sample_bytes=4096, dataset_bytes=4 * 4096, steps=3)
    trace = training.generate(options, 4096, 1)
    steps = trace.pages_N.reshape(3, -1)
    assert (steps[:, :2] - trace.pages + 4).tolist() == [[0, 1], [2, 3], [0, 1]]
