"""How likely a model finds given targets after given texts: many at a time, each distinct row run once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from rome_engine.errors import NotFiniteError, PromptError
from rome_engine.model.hooks import Trace, first_tensor
from rome_engine.model.language_model import LanguageModel

BATCH_TOKENS = 2048
"""Rows × tokens of a forward pass: products run at full speed from some hundred on."""
READS = 1024
"""Tokens whose logits are there at once."""

Chosen = Callable[[Sequence[int]], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Asked:
    """A text and the targets that may follow it; `owner` tells whose it is (a row of per-row edits).

    state: whether the hidden state that the next token is read from is wanted too.
    """

    text: str
    targets: tuple[str, ...]
    owner: int = 0
    state: bool = False


@dataclass(frozen=True, eq=False)
class Answered:
    """Of each target of one question: `nll`, its mean token negative log-likelihood in nats, and `hits`, of each of its
    tokens whether it is the likeliest one (teacher-forced). hidden: the last block's output at the text's last token,
    float32 on the CPU, where it was asked for."""

    nll: tuple[float, ...]
    hits: tuple[tuple[bool, ...], ...]
    hidden: Float[Tensor, " d_model"] | None = None

    @property
    def argmax(self) -> tuple[bool, ...]:
        """Of each target whether all of its tokens are the likeliest ones."""
        return tuple(all(hits) for hits in self.hits)


@dataclass(frozen=True)
class _Row:
    """A prompt's tokens and what is teacher-forced behind them; `scored` are the targets that are read here.

    state: of which question the hidden state at `first` is kept.
    """

    ids: tuple[int, ...]
    first: int
    scored: tuple[tuple[int, int, tuple[int, ...]], ...]  # question, number of the target, its tokens
    owner: int
    state: int | None = None


@dataclass
class _Found:
    """What was read so far, by question and number of the target."""

    nll: dict[tuple[int, int], float] = field(default_factory=dict)
    hits: dict[tuple[int, int], tuple[bool, ...]] = field(default_factory=dict)
    hidden: dict[int, Tensor] = field(default_factory=dict)


def target_nll(
    model: LanguageModel,
    asked: Sequence[Asked],
    *,
    batch_tokens: int = BATCH_TOKENS,
    reads: int = READS,
    chosen: Chosen | None = None,
    progress: Progress | None = None,
) -> list[Answered]:
    """Each question's targets, teacher-forced, in the order of the questions.

    Rows of like length go together, padded on the right, where a causal model does not look. Targets of one token
    share their prompt's row. chosen(owners) is called before each forward pass with the owner of each of its rows;
    progress(rows, of rows) after it. reads: tokens whose logits are there at once.
    Raises TargetError for a target that the model cannot say, PromptError, PromptTooLongError.
    """
    found = _run(model, _rows(model, asked), batch_tokens, reads, chosen, progress)
    return [
        Answered(
            tuple(found.nll[question, number] for number in range(len(one.targets))),
            tuple(found.hits[question, number] for number in range(len(one.targets))),
            found.hidden.get(question),
        )
        for question, one in enumerate(asked)
    ]


def sound(answers: Sequence[Answered]) -> Sequence[Answered]:
    """The same. Raises NotFiniteError where one is no number: a comparison with NaN would read as a wrong answer."""
    if not all(isfinite(nll) for one in answers for nll in one.nll):
        raise NotFiniteError("not finite: the likelihoods of answers (float32 weights, or a weaker edit, may help)")
    return answers


def text_nll(
    model: LanguageModel,
    texts: Sequence[tuple[str, int]],
    *,
    owners: Sequence[int] | None = None,
    batch_tokens: int = BATCH_TOKENS,
    reads: int = READS,
    chosen: Chosen | None = None,
    progress: Progress | None = None,
) -> list[float]:
    """Of each (text, n) the mean negative log-likelihood in nats of its first n tokens but the very first one.

    As `target_nll` else. Raises PromptError for a text of fewer than two tokens.
    """
    rows = []
    for place, (text, tokens) in enumerate(texts):
        ids = model.tokenize(text).input_ids[:tokens]
        if len(ids) < 2:
            raise PromptError(f"the text {text[:40]!r} has fewer than two tokens to read: give a longer one")
        rows.append(_Row(ids[:-1], 0, ((place, 0, ids[1:]),), 0 if owners is None else owners[place]))
    found = _run(model, rows, batch_tokens, reads, chosen, progress)
    return [found.nll[place, 0] for place in range(len(texts))]


@torch.no_grad()
def _run(
    model: LanguageModel,
    rows: Sequence[_Row],
    batch_tokens: int,
    reads: int,
    chosen: Chosen | None,
    progress: Progress | None,
) -> _Found:
    found, done = _Found(), 0
    for batch in _batches(rows, batch_tokens):
        if chosen is not None:
            chosen([row.owner for row in batch])
        _read(model, batch, reads, found)
        done += len(batch)
        if progress is not None:
            progress(done, len(rows))
    return found


def _rows(model: LanguageModel, asked: Sequence[Asked]) -> list[_Row]:
    rows: list[_Row] = []
    for question, one in enumerate(asked):
        prompt = model.tokenize(one.text)
        targets = [(question, number, model.target_ids(one.text, target)) for number, target in enumerate(one.targets)]
        single = tuple(target for target in targets if len(target[2]) == 1)
        longer = [target for target in targets if len(target[2]) > 1]
        # What one token needs, and the state, a longer target's row has too.
        parts = [(longer[0], *single), *((target,) for target in longer[1:])] if longer else [single]
        for place, part in enumerate(parts):
            forced = max((target[2] for target in part), key=len, default=(0,))[:-1]
            model.check_length(prompt, len(forced) + 1)
            state = question if one.state and place == 0 else None
            rows.append(_Row((*prompt.input_ids, *forced), len(prompt.input_ids) - 1, tuple(part), one.owner, state))
    return rows


def _batches(rows: Sequence[_Row], batch_tokens: int) -> list[list[_Row]]:
    """Rows of like length together, the longest first: what does not fit the memory fails at once."""
    batches: list[list[_Row]] = []
    for row in sorted(rows, key=lambda row: -len(row.ids)):
        if not batches or (len(batches[-1]) + 1) * len(batches[-1][0].ids) > batch_tokens:
            batches.append([])
        batches[-1].append(row)
    return batches


def _read(model: LanguageModel, batch: Sequence[_Row], at_once: int, found: _Found) -> None:
    longest = max(len(row.ids) for row in batch)
    ids = torch.tensor([[*row.ids, *[0] * (longest - len(row.ids))] for row in batch], device=model.device)
    with Trace(model.module, model.architecture.blocks[-1]) as top:
        model.module.base_model(input_ids=ids, use_cache=False)
    hidden: Tensor = first_tensor(top.output)
    for index, row in enumerate(batch):
        if row.state is not None:
            found.hidden[row.state] = hidden[index, row.first].float().cpu()
    reads = [
        (index, row.first + place, token)
        for index, row in enumerate(batch)
        for _, _, tokens in row.scored
        for place, token in enumerate(tokens)
    ]
    if not reads:
        return
    parts = [_said(model, hidden, reads[begin : begin + at_once]) for begin in range(0, len(reads), at_once)]
    losses = np.concatenate([some for some, _ in parts])
    tops = [hit for _, some in parts for hit in some]
    begin = 0
    for row in batch:
        for question, number, tokens in row.scored:
            part = slice(begin, begin + len(tokens))
            found.nll[question, number] = float(losses[part].mean())
            found.hits[question, number] = tuple(tops[part])
            begin += len(tokens)


def _said(
    model: LanguageModel, hidden: Tensor, reads: Sequence[tuple[int, int, int]]
) -> tuple[NDArray[np.float64], list[bool]]:
    """Of each (row, place, token) the token's nll after the state there, and whether it is the likeliest."""
    row, place, token = (torch.tensor(column, device=hidden.device) for column in zip(*reads, strict=True))
    logits = model.unembed(hidden[row, place])
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    token = token.to(logits.device)
    losses = logits.logsumexp(-1) - logits.gather(1, token[:, None])[:, 0]
    return losses.double().cpu().numpy(), (logits.argmax(-1) == token).tolist()
