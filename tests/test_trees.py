"""Names of leaves and the rules that match them."""

import jax
import numpy as np
import pytest

from unimedi_jax import trees

TREE = {"b": {"kernel": np.zeros((2, 3)), "bias": np.zeros(3)}, "a": [np.zeros(()), np.zeros(4)]}


def test_names_are_paths_in_the_order_of_leaves() -> None:
    assert trees.names(TREE) == ["a/0", "a/1", "b/bias", "b/kernel"]


def test_map_with_name_sees_name_and_leaf() -> None:
    result = trees.map_with_name(lambda name, leaf: (name, leaf.size), TREE)
    leaves = jax.tree.leaves(result, is_leaf=lambda x: isinstance(x, tuple))
    assert leaves == [("a/0", 1), ("a/1", 4), ("b/bias", 3), ("b/kernel", 6)]


def test_the_first_rule_that_matches_wins() -> None:
    result = trees.first_match([("kernel$", 1), ("^b", 2), (".*", 3)], TREE, "decay")
    assert result == {"b": {"kernel": 1, "bias": 2}, "a": [3, 3]}


def test_a_leaf_without_a_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="no decay rule matches the parameter a/0"):
        trees.first_match([("^b", 1)], TREE, "decay")


def test_a_rule_without_a_leaf_is_refused() -> None:
    with pytest.raises(ValueError, match=r"match no parameter.*kernle"):
        trees.first_match([("kernle", 1), (".*", 2)], TREE, "decay")


def test_count_of_scalars() -> None:
    assert trees.count(TREE) == 1 + 4 + 3 + 6
