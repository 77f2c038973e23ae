"""How likely a model finds given targets after given texts: many at a time, each distinct row run once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rome_engine.model.hooks import Trace, first_tensor
from rome_engine.model.language_model import LanguageModel

BATCH_TOKENS = 2048
"""Rows × tokens of a forward pass: products run at full speed from some hundred on."""

Chosen = Callable[[Sequence[int]], None]


@dataclass(frozen=True)
class Asked:
    """A text and the targets that may follow it; `owner` tells whose it is (a row of per-row edits)."""

    text: str
    targets: tuple[str, ...]
    owner: int = 0


@dataclass(frozen=True)
class Answered:
    """Of each target of one question: `nll`, its mean token negative log-likelihood in nats, and `argmax`, whether
    each of its tokens is the likeliest one (teacher-forced)."""

    nll: tuple[float, ...]
    argmax: tuple[bool, ...]


@dataclass(frozen=True)
class _Row:
    """A prompt's tokens and what is teacher-forced behind them; `scored` are the targets that are read here."""

    ids: tuple[int, ...]
    first: int
    scored: tuple[tuple[int, int, tuple[int, ...]], ...]  # question, number of the target, its tokens
    owner: int


@torch.no_grad()
def target_nll(
    model: LanguageModel,
    asked: Sequence[Asked],
    *,
    batch_tokens: int = BATCH_TOKENS,
    chosen: Chosen | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Answered]:
    """Each question's targets, teacher-forced, in the order of the questions.

    Rows of like length go together, padded on the right, where a causal model does not look. Targets of one token
    share their prompt's row. chosen(owners) is called before each forward pass with the owner of each of its rows;
    progress(rows, of rows) after it.
    Raises TargetError for a target that the model cannot say, PromptError, PromptTooLongError.
    """
    rows = _rows(model, asked)
    nll = [np.full(len(one.targets), np.nan) for one in asked]
    argmax = [np.zeros(len(one.targets), dtype=bool) for one in asked]
    done = 0
    for batch in _batches(rows, batch_tokens):
        if chosen is not None:
            chosen([row.owner for row in batch])
        for question, number, loss, top in _read(model, batch):
            nll[question][number], argmax[question][number] = loss, top
        done += len(batch)
        if progress is not None:
            progress(done, len(rows))
    return [
        Answered(tuple(map(float, losses)), tuple(map(bool, tops))) for losses, tops in zip(nll, argmax, strict=True)
    ]


def _rows(model: LanguageModel, asked: Sequence[Asked]) -> list[_Row]:
    rows: list[_Row] = []
    for question, one in enumerate(asked):
        prompt = model.tokenize(one.text)
        targets = [(question, number, model.target_ids(one.text, target)) for number, target in enumerate(one.targets)]
        single = tuple(target for target in targets if len(target[2]) == 1)
        longer = [target for target in targets if len(target[2]) > 1]
        # What one token needs, a longer target's row has too.
        parts = [(longer[0], *single), *((target,) for target in longer[1:])] if longer else [single]
        for part in parts:
            forced = max((target[2] for target in part), key=len)[:-1]
            model.check_length(prompt, len(forced) + 1)
            rows.append(_Row((*prompt.input_ids, *forced), len(prompt.input_ids) - 1, tuple(part), one.owner))
    return rows


def _batches(rows: Sequence[_Row], batch_tokens: int) -> list[list[_Row]]:
    """Rows of like length together, the longest first: what does not fit the memory fails at once."""
    batches: list[list[_Row]] = []
    for row in sorted(rows, key=lambda row: -len(row.ids)):
        if not batches or (len(batches[-1]) + 1) * len(batches[-1][0].ids) > batch_tokens:
            batches.append([])
        batches[-1].append(row)
    return batches


def _read(model: LanguageModel, batch: Sequence[_Row]) -> list[tuple[int, int, float, bool]]:
    longest = max(len(row.ids) for row in batch)
    ids = torch.tensor([[*row.ids, *[0] * (longest - len(row.ids))] for row in batch], device=model.device)
    with Trace(model.module, model.architecture.blocks[-1]) as top:
        model.module.base_model(input_ids=ids, use_cache=False)
    hidden: Tensor = first_tensor(top.output)
    reads = [
        (index, row.first + place, token)
        for index, row in enumerate(batch)
        for _, _, tokens in row.scored
        for place, token in enumerate(tokens)
    ]
    row_index, place, token = (torch.tensor(column, device=hidden.device) for column in zip(*reads, strict=True))
    logits = model.unembed(hidden[row_index, place])
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    said = logits.gather(1, token.to(logits.device)[:, None])[:, 0]
    losses: NDArray[np.float64] = (logits.logsumexp(-1) - said).double().cpu().numpy()
    tops = (logits.argmax(-1) == token.to(logits.device)).cpu().numpy()
    found, begin = [], 0
    for row in batch:
        for question, number, tokens in row.scored:
            part = slice(begin, begin + len(tokens))
            found.append((question, number, float(losses[part].mean()), bool(tops[part].all())))
            begin += len(tokens)
    return found
