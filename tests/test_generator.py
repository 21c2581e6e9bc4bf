"""A hundred modules drawn at random; thousands by `python -m tests.generator --seeds 0 5000`."""

import pytest

from tests.generator import LAYERS, USES, Drawn, check

SEEDS = range(100)


@pytest.mark.parametrize("first", SEEDS[::10])
def test_a_kernel_is_right_or_refused(first, unchecked):
    found = [check(seed, brief=True) for seed in range(first, first + 10)]
    assert [fault for faults, _ in found for fault in faults] == []
    assert any(verdict == "right" for _, verdict in found)


def test_rows_mixed_among_like_examples_are_seen_in_few_digits(unchecked):
    """Bfloat16: a batch and its negative, one after the other; sums of sizes hardly differ."""
    assert check(48445) == ([], "right")


def test_a_small_gradient_that_is_wrong_is_seen_in_few_digits(unchecked):
    """PyTorch's `vmap` of the slope of a PReLU, where outputs are as many as examples."""
    assert check(2415) == ([], "right")


def test_the_modules_differ():
    draws = [Drawn(seed) for seed in range(3000)]
    blocks = {block for draw in draws for block in draw.blocks}
    assert {layer for layer, _ in blocks} == LAYERS.keys()
    assert {use for _, use in blocks} == USES.keys()
    assert 0.6 < sum(draw.single for draw in draws) / len(draws) < 0.9
