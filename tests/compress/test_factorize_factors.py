"""The mathematics of factorisation against its theorems and an independent library routine."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.compress.factorize.factors import singular_values, svd_factors, tucker2, unfold
from tenfold.compress.factorize.ranks import energy_for_cost, rank_for


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 12), st.integers(1, 12), st.data())
@settings(max_examples=40, deadline=None)
def test_svd_error_is_the_discarded_singular_values(rows: int, columns: int, data: st.DataObject) -> None:
    """Eckart and Young: the squared error of the best rank r is the sum of the squares left out."""
    rank = data.draw(st.integers(1, min(rows, columns)))
    matrix = normal(rows, columns, seed=rows * 100 + columns)
    left, right = svd_factors(matrix, rank)
    assert left.shape == (rows, rank)
    assert right.shape == (rank, columns)
    reference = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    error = (matrix.double() - left @ right).square().sum().item()
    assert error == pytest.approx(np.square(reference[rank:]).sum(), abs=1e-10)
    torch.testing.assert_close(left.norm(dim=0), right.norm(dim=1))  # neither factor is larger than the other


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (1, 4), (6, 6)])
def test_singular_values_are_those_of_numpy(shape: tuple[int, int]) -> None:
    matrix = normal(*shape)
    reference = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    np.testing.assert_allclose(singular_values(matrix).numpy(), reference, atol=1e-6)


def rebuilt(out: torch.Tensor, core: torch.Tensor, into: torch.Tensor) -> torch.Tensor:
    return torch.einsum("rsk,or,is->oik", core, out, into)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_tucker_with_full_ranks_is_exact(out: int, into: int, positions: int) -> None:
    kernel = normal(out, into, positions, seed=out + 10 * into)
    full = min(out, into * positions), min(into, out * positions)
    if full != (out, into):
        return  # a mode longer than the others together has no full basis from them
    torch.testing.assert_close(rebuilt(*tucker2(kernel, out, into)).float(), kernel, atol=1e-5, rtol=0)


@given(st.integers(2, 8), st.integers(2, 8), st.sampled_from([1, 3, 9]), st.data())
@settings(max_examples=40, deadline=None)
def test_hooi_is_never_worse_than_hosvd(out: int, into: int, positions: int, data: st.DataObject) -> None:
    rank_out, rank_in = data.draw(st.integers(1, out)), data.draw(st.integers(1, into))
    kernel = normal(out, into, positions, seed=out * into + positions).double()

    def error(iterations: int) -> float:
        return (kernel - rebuilt(*tucker2(kernel, rank_out, rank_in, iterations))).norm().item()

    errors = [error(iterations) for iterations in (0, 1, 2, 20)]
    for earlier, later in pairwise(errors):
        assert later <= earlier + 1e-9
    # De Lathauwer et al., 2000, property 10: HOSVD's squared error is at most what both modes discard.
    discarded = sum(
        singular_values(unfold(kernel, mode))[rank:].square().sum().item()
        for mode, rank in ((0, rank_out), (1, rank_in))
    )
    assert errors[0] ** 2 <= discarded + 1e-6


def test_hooi_improves_a_kernel_where_hosvd_is_not_the_best() -> None:
    kernel = normal(8, 8, 9).double()
    start, end = ((kernel - rebuilt(*tucker2(kernel, 3, 3, n))).norm() for n in (0, 20))
    assert end < 0.999 * start


def test_a_kernel_of_low_multilinear_rank_is_found_exactly() -> None:
    kernel = torch.einsum("rsk,or,is->oik", normal(2, 3, 9), normal(10, 2, seed=1), normal(12, 3, seed=2))
    torch.testing.assert_close(rebuilt(*tucker2(kernel, 2, 3)).float(), kernel, atol=1e-4, rtol=1e-4)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=12), st.floats(0.01, 1.0))
def test_rank_holds_the_energy_and_no_smaller_one_does(values: list[float], energy: float) -> None:
    spectrum = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    rank, squares = rank_for(spectrum, energy), spectrum.square()
    assert 1 <= rank <= len(values)
    assert squares[:rank].sum() >= (energy - 1e-9) * squares.sum()
    if rank > 1:
        assert squares[: rank - 1].sum() < energy * squares.sum()


def test_ranks_are_rounded_up_and_never_pass_the_number_of_values() -> None:
    ones = torch.ones(20)
    assert rank_for(ones, 0.5, multiple=8) == 16
    assert rank_for(ones, 0.9, multiple=8) == 20
    assert rank_for(torch.zeros(4), 0.9) == 1


def test_bisection_finds_the_largest_energy_in_the_budget() -> None:
    assert energy_for_cost(lambda e: 100 * e, 37) == pytest.approx(0.37, abs=1e-6)
    assert energy_for_cost(lambda e: 100 * e, 100) == 1.0
    assert energy_for_cost(lambda e: 50 + e, 10) < 1e-6
