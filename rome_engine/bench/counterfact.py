"""CounterFact's scores: efficacy, paraphrases, neighbourhood, by the formulas of its authors.

s(t) is the mean token NLL of target t after a prompt. Success is s(new) < s(true); magnitude e^−s(new) − e^−s(true); on
neighbourhood prompts both with the sign reversed. The mean is taken within a case first, then over cases.
Source: ROME (arXiv 2202.05262) section 3.2 and the published evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from math import exp, nan

import numpy as np

from rome_engine.bench.nll import Answered, Asked, Chosen, sound, target_nll
from rome_engine.errors import TargetError
from rome_engine.facts import PLACE, Fact
from rome_engine.model.language_model import LanguageModel

PARTS = ("efficacy", "paraphrase", "neighbourhood")


@dataclass(frozen=True)
class CaseScores:
    """One case's scores, each a mean over its prompts; NaN where it has none of that kind.

    es, ps, ns: success. em, pm, nm: magnitude. ea, pa, na: accuracy, every token of the wanted answer (the new target;
    for neighbours the true one) the argmax; another metric, never called success.
    """

    es: float
    em: float
    ea: float
    ps: float
    pm: float
    pa: float
    ns: float
    nm: float
    na: float


@dataclass(frozen=True)
class Summary:
    """Means over cases, n of each (cases that have such prompts), and S, the harmonic mean of ES, PS and NS."""

    means: dict[str, float]
    errors: dict[str, float]
    counts: dict[str, int]
    score: float


def score(
    model: LanguageModel,
    facts: Sequence[Fact],
    *,
    chosen: Chosen | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[CaseScores]:
    """The scores of each fact on the model as it is now.

    chosen: see `target_nll`; a fact's place is its owner number. Paraphrases and neighbourhood prompts may hold `{}`
    for the subject. Raises TargetError for a fact without both targets, NotFiniteError where a target's likelihood is
    no number.
    """
    asked = [one for owner, fact in enumerate(facts) for one in _asked(fact, owner)]
    answers = iter(sound(target_nll(model, asked, chosen=chosen, progress=progress)))
    return [
        _case([[next(answers) for _ in part] for part in (("",), fact.paraphrases, fact.neighbourhood)])
        for fact in facts
    ]


def summary(cases: Sequence[CaseScores]) -> Summary:
    """Means over cases, their standard errors, how many cases each is of, and S. Nothing is the mean of nothing."""
    means, errors, counts = {}, {}, {}
    for field in fields(CaseScores):
        values = np.array([getattr(case, field.name) for case in cases], dtype=float)
        values = values[np.isfinite(values)]
        counts[field.name] = len(values)
        means[field.name] = float(values.mean()) if len(values) else nan
        errors[field.name] = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else nan
    three = [means[name] for name in ("es", "ps", "ns")]
    return Summary(means, errors, counts, harmonic(three))


def harmonic(values: Sequence[float]) -> float:
    """The harmonic mean; 0 where a value is 0, NaN where one is NaN."""
    if any(value == 0 for value in values):
        return 0.0
    return len(values) / sum(1 / value for value in values)


def _asked(fact: Fact, owner: int) -> list[Asked]:
    if not fact.target_new or not fact.target_true:
        raise TargetError(f"the fact {fact.text!r} needs target_new and target_true to be scored: give both")
    targets = (fact.target_new, fact.target_true)
    texts = (fact.text, *(text.replace(PLACE, fact.subject) for text in (*fact.paraphrases, *fact.neighbourhood)))
    return [Asked(text, targets, owner) for text in texts]


def _case(parts: Sequence[Sequence[Answered]]) -> CaseScores:
    asked, paraphrases, neighbours = parts
    return CaseScores(*_scores(asked, 0), *_scores(paraphrases, 0), *_scores(neighbours, 1))


def _scores(answers: Sequence[Answered], wanted: int) -> tuple[float, float, float]:
    """Success, magnitude and accuracy of the wanted target (0 the new one, 1 the true one) over some prompts."""
    if not answers:
        return nan, nan, nan
    other = 1 - wanted
    success = [float(answer.nll[wanted] < answer.nll[other]) for answer in answers]
    magnitude = [exp(-answer.nll[wanted]) - exp(-answer.nll[other]) for answer in answers]
    accuracy = [float(answer.argmax[wanted]) for answer in answers]
    return float(np.mean(success)), float(np.mean(magnitude)), float(np.mean(accuracy))
