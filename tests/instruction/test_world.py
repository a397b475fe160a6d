import itertools

import pytest

from bigramlib.instruction.prompts import WORLD
from bigramlib.instruction.world import (
    BASES,
    ENDS,
    PRETRAINING,
    PROMPTS,
    SEPARATORS,
    exposures,
    world_corpus,
    world_documents,
    world_tasks,
    world_tokenizer,
)

WORDS = 60_000


@pytest.fixture(scope="module")
def documents():
    return {base: list(world_documents(base, WORDS, seed=0)) for base in BASES}


def told(document):
    """The pairs of a document, as (input, answer), read from its separators and ends."""
    found, given, answer, after = [], [], [], False
    for word in document:
        if word in SEPARATORS and not after:
            after = True
        elif word in ENDS:
            found += [(" ".join(given), " ".join(answer))] * after
            given, answer, after = [], [], False
        else:
            (answer if after else given).append(word)
    return found


def test_every_word_is_one_token():
    tokenizer = world_tokenizer()
    assert len(tokenizer.get_vocab()) == PRETRAINING.vocabulary_size
    for task in world_tasks():
        for text in (*task.instructions, *itertools.chain(*task.pairs[:50])):
            ids = tokenizer(text)["input_ids"]
            assert len(ids) == len(text.split()) and tokenizer.decode(ids) == text


def test_a_word_from_elsewhere_is_refused():
    with pytest.raises(Exception, match="UNK"):
        world_tokenizer()("hello")


def test_the_answers_of_rules_follow_from_their_inputs():
    pairs = {task.name: dict(task.pairs) for task in world_tasks()}
    assert pairs["reverse"][next(iter(pairs["reverse"]))].split() == next(iter(pairs["reverse"])).split()[::-1]
    assert all(answer == given for given, answer in pairs["copy"].items())
    assert all(int(answer) == max(map(int, given.split())) for given, answer in pairs["larger"].items())
    assert all(int(answer) == int(given) + 1 for given, answer in pairs["next"].items())
    assert set(pairs["same"].values()) == {"yes", "no"}


def test_every_base_lacks_another_third_of_the_tasks():
    names = {task.name for task in world_tasks()}
    lacking = [{name for name, share in exposures(base).items() if not share} for base in BASES]
    assert set.union(*lacking) == names and sum(map(len, lacking)) == len(names) == 30


def test_text_shows_tasks_as_often_as_their_exposure_says(documents):
    for base in BASES:
        titles = {title: task.name for task in world_tasks() for title in task.instructions}
        seen = [titles[word] for document in documents[base] for word in document if word in titles]
        shares = exposures(base)
        total = sum(shares.values())
        for name, share in shares.items():
            assert seen.count(name) / len(seen) == pytest.approx(share / total, abs=0.05)
            assert share or name not in seen


def test_no_document_has_the_layout_of_prompts(documents):
    separator, end = PROMPTS
    for document in itertools.chain(*documents.values()):
        assert not (separator in document and end in document)
    assert WORLD.shown(("a0", "b1")) + WORLD.gap == f"a0 {separator} b1 {end} "


def test_tested_inputs_of_long_rules_are_never_shown(documents):
    tasks = world_tasks()
    tested = {pair for task in tasks if len(task.pairs) > 1000 for pair in task.split("test")}
    allowed = {
        pair
        for task in tasks
        for pair in (task.pairs if len(task.pairs) <= 1000 else task.split("shots") + task.split("tuning"))
    }
    for base in BASES:
        shown = {pair for document in documents[base] for pair in told(document)}
        assert not shown & (tested - allowed)
        assert len(shown & allowed) > 1000


def test_the_corpus_is_the_documents(documents):
    corpus = world_corpus("a", WORDS, seed=0)
    assert world_tokenizer().decode(corpus.ids[: corpus.starts[1]]).split() == documents["a"][0]
    assert len(corpus.starts) == len(documents["a"]) and corpus.vocabulary_size == PRETRAINING.vocabulary_size


def test_an_unknown_base_is_refused():
    with pytest.raises(ValueError, match="no base 'd'"):
        exposures("d")
