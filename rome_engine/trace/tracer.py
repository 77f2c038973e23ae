"""Tracing any number of facts in the same way: corruption, plan, engine, result."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from rome_engine.errors import NotReplayableError, TraceError
from rome_engine.facts import Fact
from rome_engine.model.heads import heads_proven
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.tokens import BosPolicy, Prompt
from rome_engine.trace import provenance, reference, wavefront
from rome_engine.trace.baseline import Baseline, run_baseline
from rome_engine.trace.corrupt import Corruption, Drawn, Spread, draw
from rome_engine.trace.counterfactual import find_partner, fitting_partner, named_partner
from rome_engine.trace.facts import default_facts, default_subjects
from rome_engine.trace.metrics import METRICS
from rome_engine.trace.plan import WINDOWED, Direction, Plan, Progress, plan_map
from rome_engine.trace.result import Trace, Values
from rome_engine.trace.settings import Settings
from rome_engine.trace.sever import Severed, parse_positions

log = logging.getLogger(__name__)

ENGINES = {"fast": wavefront.run, "reference": reference.run}


class Tracer:
    """Traces any number of facts with the same settings; what they share is measured once."""

    def __init__(self, model: LanguageModel, settings: Settings) -> None:
        self.model, self.given, self.settings = model, settings, settings.resolved
        self._bos, self._direction = cast(BosPolicy, self.settings.bos), cast(Direction, settings.direction)
        subjects = default_subjects() if settings.subjects is None else settings.subjects
        self._spread = Spread(model, subjects)
        self._environment = provenance.of(model)
        self.corruptions = [Corruption.parse(one) for one in self.settings.corruptions]
        if "head" in settings.kinds:
            heads_proven(model)
        if model.architecture.parallel and ("mid" in settings.kinds or "mid" in "".join(settings.severed)):
            raise TraceError(
                f"{model.architecture.model_class} runs attention and MLP side by side: there is no residual between "
                "them (kind mid)"
            )

    def maps(self, fact: Fact, progress: Progress | None = None) -> list[Trace]:
        """All maps of one fact, its `target_true` the answer that is scored; see `trace_maps`."""
        traces: list[Trace] = []
        for index, corruption in enumerate(self.corruptions):
            began = time.perf_counter()
            baseline = self.baseline(fact, corruption)
            plans = self.plans(baseline.prompt)
            found, engine = self.run(plans, baseline, _part_of(progress, index, len(self.corruptions)))
            seconds = time.perf_counter() - began
            origin = self.provenance(corruption, baseline)
            traces += [
                self._trace(fact, plan, baseline, corruption, scores, engine, seconds, origin)
                for plan, scores in zip(plans, found, strict=True)
            ]
        return traces

    def baseline(self, fact: Fact, corruption: Corruption) -> Baseline:
        """The clean and the corrupted run of a fact. Raises TraceError for a foil that begins as the answer does."""
        model, settings = self.model, self.settings
        prompt = model.tokenize(fact.prompt, fact.subject, self._bos)
        if fact.target_true is None:
            answer: tuple[int, ...] = (int(model.next_token_logits(prompt).argmax()),)
        else:
            answer = model.target_ids(fact.text, fact.target_true)
        model.check_length(prompt, len(answer))
        foil = None if fact.foil is None else model.target_ids(fact.text, fact.foil)[0]
        if foil == answer[0]:
            raise TraceError(
                f"the foil {fact.foil!r} and the answer {model.text(answer)!r} begin with the same token: their logits "
                "do not differ; choose another foil"
            )
        drawn = self._draw(corruption, fact, prompt, answer[0])
        heads = "head" in settings.kinds or "head" in "".join(settings.severed)
        return run_baseline(model, prompt, drawn, answer=answer, foil=foil, heads=heads)

    def plans(self, prompt: Prompt) -> list[Plan]:
        """The maps of a prompt: severed graphs, then kinds, then windows or heads."""
        return list(self._plans(prompt))

    def _plans(self, prompt: Prompt) -> Iterator[Plan]:
        settings, model = self.settings, self.model
        subject, tokens = prompt.subject_range or (0, 0), len(prompt.input_ids)
        positions = parse_positions(settings.positions, subject, tokens)
        for text in settings.severed:
            pins = Severed.parse(text).pins(subject, tokens, model.n_layers)
            for kind in settings.kinds:
                windows = settings.windows if kind in WINDOWED else (1,)
                heads = range(model.architecture.n_heads) if kind == "head" else (None,)
                for window in windows:
                    for head in heads:
                        yield plan_map(
                            kind, positions, model.n_layers, window,
                            head=head, direction=settings.direction, pins=pins, severed=text,
                        )  # fmt: skip

    def _draw(self, corruption: Corruption, fact: Fact, prompt: Prompt, answer_id: int) -> Drawn:
        settings = self.settings
        if corruption.kind != "swap":
            begin, end = prompt.subject_range or (0, 0)
            return draw(corruption, self._spread, prompt.input_ids, end - begin, settings.samples, settings.seed)
        partner = None
        if corruption.subject is not None:
            partner = named_partner(self.model, fact.prompt, prompt, corruption.subject, answer_id, self._bos)
        elif fact.counterfactual is not None:
            # Chosen for another model's tokens perhaps: where it does not fit here, another one is looked for.
            partner = fitting_partner(self.model, fact.prompt, prompt, fact.counterfactual, answer_id, self._bos)
        partner = partner or (
            find_partner(self.model, fact.prompt, prompt, answer_id, default_facts(), self._bos, fact.relation)
        )
        return Drawn((partner.prompt.input_ids,), subject=partner.subject)

    def run(
        self, plans: Sequence[Plan], baseline: Baseline, progress: Progress | None = None
    ) -> tuple[list[NDArray[np.float64]], str]:
        """The metrics of every plan's cells (cells, samples, metrics), and the engine that ran them.

        Where the fast engine's self-tests fail, the reference engine takes over and it is said.
        """
        settings, engine = self.settings, str(self.settings.engine)
        cells = [cell for plan in plans for cell in plan.cells]
        arguments = (self.model, cells, baseline, self._direction, progress, settings.memory)
        try:
            found = ENGINES[engine](*arguments)
        except NotReplayableError as error:
            log.warning("the fast engine cannot run this model (%s): tracing with the reference engine", error)
            engine = "reference"
            found = ENGINES[engine](*arguments)
        if not np.isfinite(found[:, :, :2]).all():
            raise TraceError(
                "some probabilities are not finite numbers: load the model in a wider type (--dtype float32)"
            )
        ends = np.cumsum([len(plan.cells) for plan in plans])[:-1]
        return np.split(found, ends), engine

    def _trace(
        self,
        fact: Fact,
        plan: Plan,
        baseline: Baseline,
        corruption: Corruption,
        found: NDArray[np.float64],
        engine: str,
        seconds: float,
        origin: dict[str, Any],
    ) -> Trace:
        """found: (cells, samples, metrics)."""
        model, samples = self.model, baseline.samples
        shape = (len(baseline.prompt.input_ids), model.n_layers)
        at = tuple(np.array([(cell.token, cell.layer) for cell in plan.cells]).T)
        high, low = baseline.scores[0].numpy(), baseline.scores[1:].numpy().mean(0)

        def values(metric: str) -> Values:
            column = METRICS.index(metric)
            scores, deviation = np.full(shape, np.nan), np.full(shape, np.nan)
            scores[at] = found[:, :, column].mean(1)
            if samples > 1:
                deviation[at] = found[:, :, column].std(1, ddof=1)
            elif baseline.drawn.noise is None:
                deviation[at] = 0.0  # a swap draws nothing
            return Values(float(high[column]), float(low[column]), scores, deviation)

        metrics = [name for name in METRICS if name != "logit_difference" or baseline.question.foil is not None]
        return Trace(
            model=model.name,
            prompt=baseline.prompt.text,
            subject=fact.subject,
            tokens=baseline.prompt.tokens,
            subject_range=baseline.subject,
            answer=model.text(baseline.question.answer),
            kind=plan.kind,
            window=plan.window,
            noise_sigma=baseline.drawn.level,
            samples=samples,
            seed=self.settings.seed,
            seconds=seconds,
            engine=engine,
            provenance=origin,
            direction=plan.direction,
            corruption=str(corruption),
            head=plan.head,
            severed=plan.severed,
            foil=fact.foil,
            fact=fact.id,
            others={metric: values(metric) for metric in metrics[1:]},
            **vars(values("probability")),
        )

    def provenance(self, corruption: Corruption, baseline: Baseline) -> dict[str, Any]:
        """How the maps of one baseline came about, for their records."""
        settings, spread = self.settings, self._spread
        relative = corruption.relative and corruption.kind != "swap"
        return {
            **self._environment,
            "preset": self.given.preset,
            "bos": settings.bos,
            "bos_added": baseline.prompt.bos_added,
            "corruption": str(corruption),
            "counterfactual": baseline.drawn.subject,
            "embedding_std": spread.std if relative else None,
            "embedding_std_subjects": spread.count if relative else None,
            "input_ids": list(baseline.prompt.input_ids),
            "corrupted_ids": list(baseline.drawn.ids[0]) if corruption.kind == "swap" else None,
            "answer_id": baseline.question.answer[0],
            "answer_ids": list(baseline.question.answer),
            "foil_id": baseline.question.foil,
        }


def _part_of(progress: Progress | None, index: int, parts: int) -> Progress | None:
    """Progress of one of several runs of equal size, told as that of all."""
    if progress is None:
        return None
    return lambda done, total: progress(index * total + done, parts * total)
