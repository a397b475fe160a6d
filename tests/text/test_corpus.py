"""A corpus gives its sequences, whole and in order or at random, and checks itself."""

import numpy as np
import pytest

from bigramlib import TokenCorpus


@pytest.mark.parametrize(
    ("ids", "starts", "message"),
    [
        ([], [0], "has no tokens"),
        ([1, 2, 9], [0], "run from 1 to 9, but the vocabulary has 5 entries; tokenize the text with the model's own"),
        ([1, -1], [0], "run from -1 to 1"),
        ([1, 2], [1], "must begin with 0 and increase"),
        ([1, 2], [0, 0], "must begin with 0 and increase"),
        ([1, 2], [0, 2], "starts after the last token"),
    ],
)
def test_a_token_corpus_checks_itself(ids, starts, message):
    with pytest.raises(ValueError, match=message):
        TokenCorpus(np.array(ids, dtype=np.int64), np.array(starts), 5)


def test_windows_are_consecutive_text_with_pairs_across_documents_marked():
    corpus = TokenCorpus(np.arange(11), np.array([0, 4, 9]), 11)
    current, following, valid = corpus.windows(sequence_length=5)
    assert current.tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert np.array_equal(following, current + 1)
    assert (~valid).nonzero()[1].tolist() == [3, 3]
    assert corpus.documents(sequence_length=5).tolist() == [[0, 0, 0, 0, 1], [1, 1, 1, 1, 2]]


def test_fewer_tokens_are_taken_from_the_whole_text():
    corpus = TokenCorpus(np.arange(1001), np.array([0]), 1001)
    current, _, _ = corpus.windows(sequence_length=10, max_tokens=50)
    assert current[:, 0].tolist() == [0, 200, 400, 600, 800]


def test_a_corpus_shorter_than_a_sequence_is_refused():
    corpus = TokenCorpus(np.arange(8), np.array([0]), 8)
    with pytest.raises(ValueError, match="has 8 tokens here, fewer than one sequence of 8 tokens and its next"):
        corpus.windows(sequence_length=8)
    with pytest.raises(ValueError, match="fewer than one sequence of 9"):
        corpus.sample(1, 9, np.random.default_rng(0))


def test_max_tokens_below_a_sequence_do_not_blame_the_corpus():
    corpus = TokenCorpus(np.arange(80), np.array([0]), 80)
    with pytest.raises(ValueError, match="max_tokens is 7, fewer than one sequence of 8 tokens; give a larger max_tokens"):
        corpus.windows(sequence_length=8, max_tokens=7)


def test_samples_are_pieces_of_the_text():
    corpus = TokenCorpus(np.arange(50), np.array([0]), 50)
    sample = corpus.sample(20, 7, np.random.default_rng(0))
    assert (np.diff(sample, axis=1) == 1).all()
    assert len(np.unique(sample[:, 0])) > 5
    assert corpus.sample(300, 7, np.random.default_rng(0)).max() == 49
