"""Inputs that people have, made by code: each gets a right answer or an error in words."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest


def expect(ask: Callable[[], Any], right: Any, words: str = "") -> None:
    """Ask, and compare: with a value, a class of error or warning and its words, or a condition."""
    if isinstance(right, type) and issubclass(right, Warning):
        with pytest.warns(right, match=words or None):
            ask()
    elif isinstance(right, type):
        with pytest.raises(right, match=words or None):
            ask()
    elif callable(right):
        assert right(ask())
    else:
        np.testing.assert_array_equal(ask(), right)
