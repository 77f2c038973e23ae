"""Second moments of many layers in one pass over a corpus, which ends each forward after the last of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rome_engine.errors import StatisticsError
from rome_engine.model.embedded import Report
from rome_engine.model.hooks import TraceDict
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats.corpus import Corpus, end_token, tokenizer_hash
from rome_engine.stats.provenance import DEFAULT_LENGTH, DEFAULT_TOKENS, Provenance, Sampling
from rome_engine.stats.second_moment import SecondMoment
from rome_engine.versions import versions

FIRST_TOKEN_OUTLIER = 2.0
"""Position 0 is left out where its key's norm is over this many times the others' median, or under 1 / this."""

BATCH_TOKENS = 4096

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
    progress: Report | None = None,
) -> dict[int, SecondMoment]:
    """The second moment of each layer's keys (inputs of the down-projection) over a sample of a corpus.

    tokens: the budget. length: of a sequence; None is 512, or the model's context where that is shorter.
    batch_tokens: how many go through the model at once; it changes the result by rounding only.
    Keys at document-end tokens are not counted: they belong to no text, and in many models they are attention sinks.
    Nor are those at position 0 in layers where the first batch shows their norm to be an outlier
    (FIRST_TOKEN_OUTLIER), which the provenance records. The model is left as it was, however this ends.

    Raises StatisticsError for layers the model has not, a length beyond its context, a corpus without text, or keys
    that are not finite.
    """
    wanted = checked_layers(model, layers)
    sampling = sampling_for(model, tokens, length, seed)
    about = _provenance(model, corpus, sampling)
    collectors = {
        model.architecture.path(layer, model.architecture.down_projection): _Collector(
            SecondMoment(model.architecture.d_mlp, replace(about, layer=layer))
        )
        for layer in wanted
    }
    done = 0
    for batch in _batches(corpus.sequences(model.tokenizer, sampling), batch_tokens):
        ids = torch.tensor(batch, device=model.device)
        _run(model, collectors, ids)
        done += ids.numel()
        if progress is not None:
            progress("collecting second moments", done / sampling.tokens)
    if progress is not None:
        progress("collecting second moments", 1.0)
    if done == 0:
        raise StatisticsError(f"the corpus {corpus.name} has no text that this tokenizer knows: give another file")
    if done < sampling.tokens:
        _log.warning(
            "the corpus %s has %d tokens, not the %d asked for: all were used", corpus.name, done, sampling.tokens
        )
    return {layer: collector.moment for layer, collector in zip(wanted, collectors.values(), strict=True)}


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


class _Collector:
    """One layer's moment while it grows, and what was found out about position 0."""

    def __init__(self, moment: SecondMoment) -> None:
        self.moment = moment
        self._skip_first: bool | None = None

    def add(self, keys: Float[Tensor, "rows tokens d_mlp"], counted: Bool[Tensor, "rows tokens"]) -> None:
        counted = counted.to(keys.device)
        if self._skip_first is None:
            self._skip_first = self._measure(keys, counted)
        if self._skip_first:
            keys, counted = keys[:, 1:], counted[:, 1:]
        self.moment.update(keys[counted])

    def _measure(self, keys: Tensor, counted: Tensor) -> bool:
        norms = keys.double().norm(dim=-1) if keys.device.type != "mps" else keys.float().norm(dim=-1)
        others = norms[:, 1:][counted[:, 1:]]
        usual = float(others.median()) if others.numel() else 0.0
        ratio = float(norms[:, 0].median()) / usual if usual > 0 else 1.0
        outlier = not 1 / FIRST_TOKEN_OUTLIER <= ratio <= FIRST_TOKEN_OUTLIER
        assert self.moment.provenance is not None
        self.moment.provenance = replace(self.moment.provenance, first_token_ratio=ratio, first_token_left_out=outlier)
        return outlier


@torch.no_grad()
def _run(model: LanguageModel, collectors: dict[str, _Collector], ids: Int[Tensor, "rows tokens"]) -> None:
    """One forward that takes each layer's keys as they pass and keeps none of them."""
    rows, length = ids.shape
    counted = torch.ones_like(ids, dtype=torch.bool)
    end = end_token(model.tokenizer)
    if end is not None:
        counted[:, 1:] = ids[:, 1:] != end

    def take(keys: Tensor, name: str | None) -> Tensor:
        assert name is not None
        # Some families hand their MLP (rows · tokens, d_mlp).
        collectors[name].add(keys.reshape(rows, length, keys.shape[-1]), counted)
        return keys

    with TraceDict(model.module, collectors, retain_output=False, edit_input=take, stop=True):
        model.module(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)


def _batches(sequences: Iterator[list[int]], batch_tokens: int) -> Iterator[Sequence[list[int]]]:
    """Sequences of one length together, up to so many tokens."""
    batch: list[list[int]] = []
    for sequence in sequences:
        if batch and (len(sequence) != len(batch[0]) or (len(batch) + 1) * len(sequence) > batch_tokens):
            yield batch
            batch = []
        batch.append(sequence)
    if batch:
        yield batch


def _provenance(model: LanguageModel, corpus: Corpus, sampling: Sampling) -> Provenance:
    return Provenance(
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
