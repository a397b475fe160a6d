"""What a figure shows is said in words: what against what, the names of lines, bars and rows, and their values."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import seaborn as sns

from bigramlib.findings.alt_text import alt_text


@pytest.fixture
def place():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def test_lines_are_named_with_their_ranges(place):
    place.set(xlabel="kept weights", ylabel="correlation\nr", title="They exist")
    place.plot([1, 2, 3], [0.5, np.nan, 0.9], label="trained")
    place.errorbar([1, 2], [0.25, 0.25], 0.1, label="random")
    place.plot([1, 2], [np.nan, np.nan], label="none")
    place.scatter([1, 2], [3, 4], label="dots")
    place.plot([1, 2], [5, 6])
    described = (
        "They exist: correlation r against kept weights: trained (0.5 to 0.9); none (no values); dots (3 to 4); random (0.25)."
    )
    assert alt_text(place.figure) == described


def test_rows_are_named_from_the_top_with_the_lengths_of_their_bars_or_the_places_of_their_dots(place):
    place.barh(["a", "b"], [0.5, 0.25])
    place.set(xlabel="similarity")
    assert alt_text(place.figure) == "similarity: b (0.25); a (0.5)."
    place.clear()
    place.plot([0.125, 3], [0, 1], "o")
    place.set_yticks([0, 1, 2], ["a", "b", "c"])
    assert alt_text(place.figure) == "c; b (3); a (0.125)."


def test_a_heat_map_is_described_without_its_colour_bar(place):
    sns.heatmap(np.array([[0.0, 5.0], [np.nan, 2.5]]), ax=place, cbar_kws={"label": "% of weights kept"})
    place.set(ylabel="layer", xlabel="head")
    assert alt_text(place.figure) == "a heat map of % of weights kept, layer against head, 0 to 5."


def test_panels_are_described_one_after_another_and_empty_ones_not_at_all():
    figure, (left, middle, right) = plt.subplots(1, 3)
    left.bar([0, 1], [2, 3], label="counts")
    middle.set_axis_off()
    right.set(title="heads", xlabel="attention was not searched")
    assert alt_text(figure) == "counts (2 to 3). heads: attention was not searched."
    plt.close(figure)
