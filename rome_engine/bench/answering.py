"""Asks answered on a model: those of many owners together, each owner with an edit of its own if need be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rome_engine.bench import asks as terms
from rome_engine.bench.asks import Answer, Answers, Ask, Forced, Generated, Next, Read
from rome_engine.bench.generation import ARRAYS, generate
from rome_engine.bench.nll import BATCH_TOKENS, READS, Asked, Chosen, Progress, target_nll, text_nll
from rome_engine.model.language_model import LanguageModel

MEMORY = 2**31
"""Bytes that a batch may use beside the model."""

Owned = tuple[int, Ask]


def answer(
    model: LanguageModel,
    asked: Sequence[Iterable[Ask]],
    *,
    memory: int = MEMORY,
    chosen: Chosen | None = None,
    progress: Progress | None = None,
) -> list[Answers]:
    """The answers to each owner's asks on the model as it is, each distinct one made once.

    memory: bytes that a batch may use beside the model. chosen(owners) is called before each forward pass with the
    owner (a place in `asked`) of each of its rows, see `edit.per_row`; progress(asks done, of all) as work goes on.
    Raises PromptError and its kinds for what cannot be asked.
    """
    distinct = [tuple(dict.fromkeys(asks)) for asks in asked]
    owned = [(owner, ask) for owner, asks in enumerate(distinct) for ask in asks]
    run = _Run(model, memory, chosen, progress, len(owned), {})
    run.forced([(owner, ask) for owner, ask in owned if isinstance(ask, Forced | Next)])
    run.read([(owner, ask) for owner, ask in owned if isinstance(ask, Read)])
    run.generated([(owner, ask) for owner, ask in owned if isinstance(ask, Generated)])
    return [Answers({ask: run.found[owner, ask] for ask in asks}) for owner, asks in enumerate(distinct)]


@dataclass(frozen=True, eq=False)
class _Run:
    """What the kinds of asks have in common, and what was found so far."""

    model: LanguageModel
    memory: int
    chosen: Chosen | None
    progress: Progress | None
    total: int
    found: dict[Owned, Answer]

    def forced(self, asks: Sequence[tuple[int, Forced | Next]]) -> None:
        """Targets and next tokens: one question for each owner's text."""
        targets: dict[tuple[int, str], list[str]] = defaultdict(list)
        states = set()
        for owner, ask in asks:
            place = targets[owner, ask.text]
            if isinstance(ask, Forced):
                place.append(ask.target)
            else:
                states.add((owner, ask.text))
        asked = [Asked(text, tuple(of), owner, (owner, text) in states) for (owner, text), of in targets.items()]
        answers = target_nll(
            self.model,
            asked,
            **self._sizes(),
            chosen=self.chosen,
            progress=self._part(len(asks)),
        )
        for one, answered in zip(asked, answers, strict=True):
            for target, nll, hits in zip(one.targets, answered.nll, answered.hits, strict=True):
                self.found[one.owner, Forced(one.text, target)] = terms.ForcedAnswer(nll, hits)
            if answered.hidden is not None:
                self.found[one.owner, Next(one.text)] = terms.NextAnswer(answered.hidden, self.model)

    def read(self, asks: Sequence[tuple[int, Read]]) -> None:
        """Texts as they are."""
        losses = text_nll(
            self.model,
            [(ask.text, ask.tokens) for _, ask in asks],
            owners=[owner for owner, _ in asks],
            **self._sizes(),
            chosen=self.chosen,
            progress=self._part(len(asks)),
        )
        self.found.update({one: terms.ReadAnswer(loss) for one, loss in zip(asks, losses, strict=True)})

    def generated(self, asks: Sequence[tuple[int, Generated]]) -> None:
        """Free texts."""
        texts = generate(self.model, asks, self.memory, chosen=self.chosen, progress=self._part(len(asks)))
        self.found.update(zip(asks, texts, strict=True))

    def _part(self, asks: int) -> Progress | None:
        """Progress of this many asks, told in rows, as that of all."""
        if self.progress is None:
            return None
        told, before, total = self.progress, len(self.found), self.total
        return lambda done, of: told(before + asks * done // of, total)

    def _sizes(self) -> dict[str, int]:
        """What the memory has room for: a quarter is for logits. On a CPU more tokens than some are no faster."""
        architecture = self.model.architecture
        a_token = 4 * (8 * architecture.d_model + 4 * architecture.d_mlp)
        a_read = ARRAYS * 4 * architecture.d_vocab
        tokens, reads = 3 * self.memory // 4 // a_token, self.memory // 4 // a_read
        most = BATCH_TOKENS if self.model.device.type == "cpu" else tokens
        return {"batch_tokens": max(1, min(tokens, most)), "reads": max(1, min(reads, READS))}
