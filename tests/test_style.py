"""The styles in a model's card: centres of what it has seen, and how far that reaches."""

from unittest.mock import Mock

import numpy as np
import pytest

from scellseg_lib import style
from scellseg_lib.model import Card, new_model
from scellseg_lib.segmentation import style_distance
from tests import tiny


def remembered(styles: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Card:
    """The card of a model that has seen images of these styles."""
    monkeypatch.setattr(style, "embed", Mock(side_effect=styles))
    model = new_model("scellseg", tiny.LEVELS)
    style.remember_styles(model, [*tiny.worms(1)] * len(styles))
    return model.card


def test_of_many_images_the_radius_reaches_each(monkeypatch):
    styles = np.random.default_rng(0).normal(size=(100, 3))
    card = remembered(styles, monkeypatch)
    assert len(card.styles) == style.MAX_CENTRES
    assert max(style_distance(one, card) for one in styles) == pytest.approx(1, abs=1e-3)


def test_of_few_images_each_is_a_centre_and_the_radius_twice_their_distance(monkeypatch):
    card = remembered(np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]), monkeypatch)
    assert len(card.styles) == 3
    assert card.style_radius == pytest.approx(2 * np.hypot(3, 3))
    # The distance to the nearest centre, in radii.
    near = np.array([3.0, 5.0])
    assert style_distance(near, card) == pytest.approx(1 / card.style_radius)
    assert style_distance(near - [0, 1], card) == 0
    card = remembered(np.array([[0.6, 0.8]]), monkeypatch)
    assert card.style_radius == 0  # a single image tells none
    assert style_distance(np.array([-1.0, 0.0]), card) == 0
