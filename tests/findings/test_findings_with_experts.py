"""What notebooks read off tables and draw of them holds for mixtures of experts too."""

import numpy as np
import pytest
from mixtures import MIXTURES, mixture, random_half

from bigramlib import Study, Subnetwork
from bigramlib.analysis.overlap import overlap_test
from bigramlib.findings import base_to_build_on, overlap, where_they_live
from bigramlib.subnetworks.places import layer_shares


@pytest.fixture(scope="module", params=MIXTURES)
def model(request, tokenizer):
    return mixture(request.param, tokenizer)


def test_dimensions_are_counted_and_drawn_by_expert(model, axes):
    one, other = random_half(model), random_half(model, seed=1)
    counts = where_they_live.dimension_counts({"bigram subnetwork": one, "random subnetwork": other})
    assert counts["bigram subnetwork"].sum() == (one & Subnetwork.mlp(model, 0)).kept
    where_they_live.plot_lorenz(axes[0], counts)
    assert [text.get_text().split(" (")[0] for text in axes[0].get_legend().get_texts()] == [
        "bigram subnetwork",
        "random subnetwork",
    ]
    assert where_they_live.judge(None, {1.0: one, 2.0: other}, 1.0, [one, other], counts)


def test_pictures_by_layer_and_component_take_experts_together(model, axes):
    one, other = random_half(model), random_half(model, seed=1)
    one.plot(axes[0])
    shown = np.asarray(axes[0].collections[0].get_array()).reshape(2, -1)
    mlp_in = one.table().query("layer == 1 and component == 'mlp in'")
    place = list(dict.fromkeys(one.table().component)).index("mlp in")
    assert shown[1, place] == pytest.approx(100 * mlp_in.kept.sum() / mlp_in.total.sum())
    overlap.plot_overlap_by_component(axes[1], overlap_test(one, other))
    where_they_live.plot_heads(axes[2], where_they_live.head_units(one))
    where_they_live.plot_layer_shares(axes[3], layer_shares([one.table(), other.table()]))


def test_half_of_the_first_mlp_is_half_of_its_dimensions_whichever_expert_has_them(model, documents):
    some = random_half(model)
    edits = base_to_build_on.edits_of(Study(model, documents), some)
    emptiest, fullest = edits["without half of its dimensions, the emptiest"], edits["without the other half"]
    mlp = some & Subnetwork.mlp(model, 0)
    assert ((some - emptiest) | (some - fullest)).hash == mlp.hash and ((some - emptiest) & (some - fullest)).kept == 0
    assert 0 < (some - emptiest).kept < (some - fullest).kept


def test_overlap_s_numbers_are_those_of_real_shuffles(model):
    assert overlap.shuffle_check(random_half(model), random_half(model, seed=1))["same mean"]
