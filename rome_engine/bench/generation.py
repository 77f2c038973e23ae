"""Free text after many prompts: rows of like length in one batch, each row's text its own whatever the batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from rome_engine.bench.asks import Generated, GeneratedAnswer
from rome_engine.bench.nll import Chosen, Progress
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.tokens import Prompt

ARRAYS = 3
"""Of a vocabulary's width in float32 that a row needs while its next token is chosen, or one's likelihood read."""


def generate(
    model: LanguageModel,
    asks: Sequence[tuple[int, Generated]],
    memory: int,
    *,
    chosen: Chosen | None = None,
    progress: Progress | None = None,
) -> list[GeneratedAnswer]:
    """What follows each (owner, ask), in their order; to rounding the same as if it were asked alone.

    memory: bytes that a batch may take for keys, values and logits. chosen, progress: see `nll.target_nll`.
    Raises PromptError, PromptTooLongError.
    """
    prompts = [model.tokenize(ask.text) for _, ask in asks]
    found: dict[int, GeneratedAnswer] = {}
    for batch in _batches([ask for _, ask in asks], prompts, _room(model, memory)):
        first = asks[batch[0]][1]
        if chosen is not None:
            chosen([asks[place][0] for place in batch])
        texts = model.generate(
            [prompts[place] for place in batch],
            first.tokens,
            top_k=first.top_k,
            seed=[asks[place][1].seed for place in batch],
        )
        for place, ids in zip(batch, texts, strict=True):
            said = _plain(model, ids)
            found[place] = GeneratedAnswer(model.text_after(prompts[place], said), ended=len(said) < first.tokens)
        if progress is not None:
            progress(len(found), len(asks))
    return [found[place] for place in range(len(asks))]


def _plain(model: LanguageModel, ids: Sequence[int]) -> Sequence[int]:
    """The tokens up to a special one, such as <s>, which no text has: it ends one, be it the model's own end or not."""
    tokenizer = model.tokenizer
    ends = {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
    return ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids))]


def _room(model: LanguageModel, memory: int) -> Callable[[int], int]:
    """How many rows of so many tokens fit."""
    logits = ARRAYS * 4 * model.architecture.d_vocab
    return lambda tokens: max(1, memory // (tokens * model.cache_bytes + logits))


def _batches(asks: Sequence[Generated], prompts: Sequence[Prompt], room: Callable[[int], int]) -> Iterator[list[int]]:
    """Places of asks that go together, the longest first."""
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for place, ask in enumerate(asks):
        alike[ask.tokens, ask.top_k].append(place)
    for (tokens, _), places in alike.items():
        places.sort(key=lambda place: -len(prompts[place].input_ids))
        while places:
            rows = room(len(prompts[places[0]].input_ids) + tokens)
            yield places[:rows]
            del places[:rows]
