"""Second moments of many layers in one pass over a corpus, which ends each forward after the last of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from functools import partial
from itertools import islice, tee
from pathlib import Path

from rome_engine.errors import StatisticsError
from rome_engine.model.embedded import Report
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats.batches import Batch, batches, pass_keys
from rome_engine.stats.checkpoint import Checkpoint, resumed
from rome_engine.stats.collection import Collection, Plan, Sums
from rome_engine.stats.corpus import Corpus, tokenizer_hash
from rome_engine.stats.provenance import DEFAULT_LENGTH, DEFAULT_TOKENS, Provenance, Sampling
from rome_engine.stats.second_moment import SecondMoment
from rome_engine.stats.shard import WHOLE, Shard
from rome_engine.versions import versions

BATCH_TOKENS = 4096

Gather = Callable[[Mapping[int, Provenance], Iterable[Batch]], Generator[Sums, None, None]]
"""Gives the sums of each batch in the batches' order, for layers of whose first batch the provenances tell: where the
forwards are run elsewhere."""

_log = logging.getLogger(__name__)


def collect(
    model: LanguageModel,
    corpus: Corpus,
    layers: Iterable[int],
    *,
    tokens: int = DEFAULT_TOKENS,
    length: int | None = None,
    seed: int = 0,
    batch_tokens: int = BATCH_TOKENS,
    checkpoint: Path | None = None,
    progress: Report | None = None,
    gather: Gather | None = None,
) -> dict[int, SecondMoment]:
    """The second moment of each layer's keys (inputs of the down-projection) over a sample of a corpus.

    tokens: the budget. length: of a sequence; None is 512, or the model's context where that is shorter.
    batch_tokens: how many go through the model at once; it changes the result by rounding only.
    checkpoint: a file in which the sums are kept every half minute, and from which the same call goes on after it was
    interrupted, to the very same moments; it is left there, for the caller to remove when the moments are safe.
    gather: where all batches but the first are run, here where left out; it changes no bit (`stats.spreading`).
    Keys at document-end tokens are not counted: they belong to no text, and in many models they are attention sinks.
    Nor are those at position 0 in layers where the first batch shows their norm to be an outlier
    (FIRST_TOKEN_OUTLIER), which the provenance records. The model is left as it was, however this ends.

    Raises StatisticsError for layers the model has not, a length beyond its context, a corpus without text, or keys
    that are not finite; StorageError where the checkpoint cannot be written.
    """
    plan = plan_for(model, corpus, layers, sampling_for(model, tokens, length, seed), batch_tokens, WHOLE)
    found = None if checkpoint is None else resumed(checkpoint, plan)
    collection = found or Collection(plan)
    _gather(model, corpus, collection, checkpoint, progress, gather)
    return collection.moments()


def collect_shard(
    model: LanguageModel,
    corpus: Corpus,
    layers: Iterable[int],
    shard: Shard,
    path: Path,
    *,
    tokens: int = DEFAULT_TOKENS,
    length: int | None = None,
    seed: int = 0,
    batch_tokens: int = BATCH_TOKENS,
    progress: Report | None = None,
) -> Collection:
    """One of several equal parts of what `collect` would do with the rest of these arguments, into a file for `merge`.

    tokens: of all shards together. The file is its own checkpoint: after an interruption the same call goes on from
    it, and does nothing where it is complete. Every shard runs the first batch, to judge position 0 alike.

    Raises as `collect`, and StatisticsError where the file exists and is anything else.
    """
    plan = plan_for(model, corpus, layers, sampling_for(model, tokens, length, seed), batch_tokens, shard)
    collection = Collection.load(path) if path.exists() else Collection(plan)
    if collection.plan.key != plan.key:
        raise StatisticsError(
            f"{path} holds the shard {collection.plan.shard} of another collection: name another file"
        )
    if not collection.complete:
        _gather(model, corpus, collection, path, progress)
        collection.save(path)
    return collection


def checked_layers(model: LanguageModel, layers: Iterable[int]) -> list[int]:
    """Layers in rising order, each once. Raises StatisticsError for none, or for one that the model has not."""
    wanted = sorted(set(layers))
    if not wanted:
        raise StatisticsError("no layer was asked for: name at least one")
    for layer in wanted:
        if not 0 <= layer < model.n_layers:
            raise StatisticsError(
                f"the model {model.name} has no layer {layer}: its layers are 0 to {model.n_layers - 1}"
            )
    return wanted


def sampling_for(model: LanguageModel, tokens: int, length: int | None, seed: int) -> Sampling:
    """The sampling asked for, its length checked against the model's context. Raises StatisticsError."""
    context = model.architecture.context
    if length is None:
        length = DEFAULT_LENGTH if context is None else min(DEFAULT_LENGTH, context)
    if context is not None and length > context:
        raise StatisticsError(
            f"sequences of {length} tokens do not fit into the model's context: ask for at most {context}"
        )
    return Sampling(tokens, length, seed)


def plan_for(
    model: LanguageModel,
    corpus: Corpus,
    layers: Iterable[int],
    sampling: Sampling,
    batch_tokens: int = BATCH_TOKENS,
    shard: Shard = WHOLE,
) -> Plan:
    """What a collection of these layers is. Raises StatisticsError for layers the model has not."""
    wanted = tuple(checked_layers(model, layers))
    about = Provenance(
        layer=0,
        weights=model.weight_hash(),
        corpus=corpus.hash,
        tokenizer=tokenizer_hash(model.tokenizer),
        tokens=sampling.tokens,
        length=sampling.length,
        seed=sampling.seed,
        first_token_ratio=1.0,
        first_token_left_out=False,
        model=model.name,
        corpus_name=corpus.name,
        versions=", ".join(f"{name} {number}" for name, number in versions().items()),
    )
    return Plan(about, model.architecture.d_mlp, wanted, batch_tokens, shard)


def steps(
    model: LanguageModel, corpus: Corpus, collection: Collection, gather: Gather | None = None
) -> Generator[Collection, None, None]:
    """Take in batch after batch of those that the collection has not seen yet, and yield it after each.

    gather: as in `collect`, for a whole collection only. The model is as it was whenever it is yielded, and however
    this ends. Raises StatisticsError for keys that are not finite; the collection is in no state to go on from then.
    """
    about = collection.plan.about
    sequences = corpus.sequences(model.tokenizer, Sampling(about.tokens, about.length, about.seed))
    cut = enumerate(batches(sequences, collection.plan.batch_tokens))
    left = islice(cut, collection.batches, None)
    taking = _here(model, collection, left) if gather is None else _elsewhere(model, collection, left, gather)
    with closing(taking) as taken:
        for batch in taken:
            before = collection.tokens
            collection.tokens += sum(map(len, batch))
            collection.batches += 1
            if collection.plan.shard == WHOLE and 2 * before < about.tokens <= 2 * collection.tokens:
                collection.half()
            yield collection


def _here(
    model: LanguageModel, collection: Collection, left: Iterable[tuple[int, Batch]]
) -> Generator[Batch, None, None]:
    """Each batch when its keys are in the collection; other shards' batches as they are."""
    shard = collection.plan.shard
    for number, batch in left:
        if number == 0 or shard.has(number):
            add = shard.has(number)
            pass_keys(model, {layer: partial(keys.take, add=add) for layer, keys in collection.layers.items()}, batch)
        yield batch


def _elsewhere(
    model: LanguageModel, collection: Collection, left: Iterator[tuple[int, Batch]], gather: Gather
) -> Generator[Batch, None, None]:
    """As `_here`, of a whole collection; the first batch is run here, because it tells how the others are taken."""
    if collection.batches == 0:
        yield from _here(model, collection, islice(left, 1))
    about: dict[int, Provenance] = {}
    for layer, keys in collection.layers.items():
        assert keys.moment.provenance is not None
        about[layer] = keys.moment.provenance
    sent, same = tee(batch for _, batch in left)
    with closing(gather(about, sent)) as gathered:
        for sums, batch in zip(gathered, same, strict=True):
            collection.add(sums)
            yield batch


def _gather(
    model: LanguageModel,
    corpus: Corpus,
    collection: Collection,
    path: Path | None,
    progress: Report | None,
    gather: Gather | None = None,
) -> None:
    """Bring a collection to its end, from wherever it is."""
    checkpoint = None if path is None else Checkpoint(path)
    name, wanted = corpus.name, collection.plan.about.tokens
    tell = progress or _untold
    try:
        with closing(steps(model, corpus, collection, gather)) as states:
            for _ in states:
                if checkpoint is not None:
                    checkpoint.offer(collection)
                tell("collecting second moments", collection.tokens / wanted)
        tell("collecting second moments", 1.0)
    except BaseException:
        if path is not None and path.exists():
            _log.warning("what was collected is kept in %s, and the same command goes on from there", path)
        raise
    done = collection.tokens
    if done == 0:
        raise StatisticsError(f"the corpus {name} has no text that this tokenizer knows: give another file")
    if done < wanted:
        _log.warning("the corpus %s has %d tokens, not the %d asked for: all were used", name, done, wanted)
    collection.complete = True


def _untold(_message: str, _share: float) -> None:
    pass
