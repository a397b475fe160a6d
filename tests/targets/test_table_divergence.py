"""The sparse loss of a table is the dense one."""

import pytest
import torch
from conftest import PADDED, build, token_ids
from torch.nn import functional


@pytest.mark.parametrize("kind", ["bigram", "unigram"])
def test_loss_and_gradient_equal_dense_cross_entropy_minus_entropy(any_model, table, kind):
    target = table if kind == "bigram" else table.unigram()
    ids = token_ids(3)
    dense = torch.from_numpy(target.probabilities(ids.flatten().numpy())).float()
    gradients, values = [], []
    for loss in (
        lambda hidden: target.bind(any_model)(ids, hidden),
        lambda hidden: (
            functional.cross_entropy(any_model.unembed(hidden).flatten(0, 1), dense, reduction="none").view(ids.shape)
            - torch.special.entr(dense).sum(-1).view(ids.shape)
        ),
    ):
        hidden = any_model.hidden(ids).clone().requires_grad_()
        values.append(loss(hidden))
        gradients.append(torch.autograd.grad(values[-1].sum(), hidden)[0])
    assert torch.allclose(values[0], values[1], atol=2e-4, rtol=1e-4)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-5, rtol=1e-3)


def test_an_unembedding_bias_enters_the_expected_logit(tokenizer, table):
    model = build("gpt_neox", tokenizer)
    model.hf.get_output_embeddings().bias = torch.nn.Parameter(torch.randn(PADDED), requires_grad=False)
    ids = token_ids(4)
    hidden = model.hidden(ids)
    dense = torch.from_numpy(table.probabilities(ids.flatten().numpy())).float()
    expected = functional.kl_div(model.unembed(hidden).log_softmax(-1).flatten(0, 1), dense, reduction="none").sum(-1)
    assert torch.allclose(table.bind(model)(ids, hidden).flatten(), expected, atol=1e-4)
