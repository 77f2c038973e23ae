"""The clean and the corrupted run that every cell of a prompt shares, kept once.

Row 0 is clean, rows 1 to N are corrupted. All cells see the same corruption, so they are paired.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import DynamicCache

from rome_engine.errors import TraceError
from rome_engine.model.heads import head_slice, heads_proven
from rome_engine.model.hooks import Trace as Hook
from rome_engine.model.hooks import TraceDict, first_tensor
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.replay import KeysValues
from rome_engine.model.tokens import Prompt
from rome_engine.trace.corrupt import Drawn
from rome_engine.trace.metrics import Question, measure
from rome_engine.trace.plan import Patch, Run


@dataclass(frozen=True, eq=False)
class Baseline:
    """One prompt's runs. `states[component][layer]` has shape (1 + samples, tokens, width), the clean row first.

    The tokens are the prompt's and all but the last of the answer's (teacher forcing). `scores` (1 + samples, metrics)
    are those of each row, `embedded` what the first block was given.
    """

    model: LanguageModel
    prompt: Prompt
    drawn: Drawn
    question: Question
    ids: Int[Tensor, "rows tokens"]
    scores: Float[Tensor, "rows metrics"]
    embedded: Float[Tensor, "rows tokens d_model"]
    states: dict[str, list[Tensor]]
    keys_values: KeysValues

    @property
    def samples(self) -> int:
        return self.drawn.samples

    @property
    def tokens(self) -> int:
        return self.ids.shape[1]

    @property
    def first_scored(self) -> int:
        """The position after which the answer's first token is expected; the scored positions go on to the end."""
        return len(self.prompt.input_ids) - 1

    @property
    def subject(self) -> tuple[int, int]:
        if self.prompt.subject_range is None:
            raise TraceError("a trace needs a subject: name the words to corrupt")
        return self.prompt.subject_range

    def rows(self, run: Run) -> slice:
        """The rows of a run: the single clean one, or the corrupted ones."""
        return slice(0, 1) if run == "clean" else slice(1, None)

    def inputs(self, layer: int, run: Run) -> Float[Tensor, "rows tokens d_model"]:
        """What the block of this layer was given; for the number of layers, what the last one gave."""
        return (self.states["hidden"][layer - 1] if layer else self.embedded)[self.rows(run)]

    def value(self, patch: Patch) -> Float[Tensor, "rows width"]:
        """The state that a patch puts in: a row a sample, or a single one for the clean run's."""
        rows = self.rows(patch.source)
        if patch.component == "hidden":
            return self.inputs(patch.layer + 1, patch.source)[:, patch.position]
        if patch.component == "mid":
            attention = self.states["attn"][patch.layer][rows, patch.position]
            return self.inputs(patch.layer, patch.source)[:, patch.position].to(attention.device) + attention
        state = self.states[patch.component][patch.layer][rows, patch.position]
        return state[:, head_slice(self.model, patch.head)] if patch.component == "head" else state


def corruption(model: LanguageModel, prompt: Prompt, drawn: Drawn) -> Hook:
    """A hook that puts the noise on the subject's tokens of rows 1 to N, at the token embedding's output."""
    begin, end = prompt.subject_range or (0, 0)

    def add(output: Tensor, _layer: str | None) -> Tensor:
        if drawn.noise is None:
            return output
        corrupted = output.clone()
        noise = drawn.noise.to(output)
        if drawn.replaces:
            corrupted[1:, begin:end] = noise
        else:
            corrupted[1:, begin:end] += noise
        return corrupted

    return Hook(model.module, model.architecture.embedding, edit_output=add, retain_output=False)


def all_ids(model: LanguageModel, prompt: Prompt, drawn: Drawn, answer: tuple[int, ...]) -> Int[Tensor, "rows tokens"]:
    """The token ids of the clean row and the corrupted ones, the answer's tokens but the last behind each."""
    rows = [prompt.input_ids, *drawn.ids]
    return torch.tensor([[*row, *answer[:-1]] for row in rows], device=model.device)


@torch.no_grad()
def run_baseline(
    model: LanguageModel,
    prompt: Prompt,
    drawn: Drawn,
    *,
    answer: tuple[int, ...] | None = None,
    foil: int | None = None,
    heads: bool = False,
) -> Baseline:
    """One forward pass of the clean and the corrupted rows, its states kept, those of single heads where asked.

    answer: its tokens; None for the clean run's most probable next token.
    Raises TraceError where the noise never reached the embedding or a probability is not finite.
    """
    if heads:
        heads_proven(model)
    if answer is None:
        answer = (int(model.next_token_logits(prompt).argmax()),)
    ids = all_ids(model, prompt, drawn, answer)
    architecture, layers = model.architecture, range(model.n_layers)
    parts = {"hidden": "", "mlp": architecture.mlp_output, "attn": architecture.attention_output}
    paths = {kind: [architecture.path(layer, part) for layer in layers] for kind, part in parts.items()}
    projections = [architecture.path(layer, architecture.attention_projection) for layer in layers] if heads else []
    cache = DynamicCache()
    with (
        corruption(model, prompt, drawn) as embedding,
        Hook(model.blocks[0], retain_input=True, retain_output=False, clone=True) as first,
        TraceDict(model.module, [path for group in paths.values() for path in group], clone=True) as seen,
        TraceDict(model.module, projections, retain_input=True, retain_output=False, clone=True) as handed,
    ):
        model.module.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
    if embedding.calls != 1:
        raise TraceError(
            f"the token embedding ran {embedding.calls} times in one forward pass: the noise cannot be placed"
        )
    rows, tokens = ids.shape
    states = {
        kind: [first_tensor(seen[path].output).reshape(rows, tokens, -1) for path in group]
        for kind, group in paths.items()
    }
    if heads:
        states["head"] = [handed[path].input.reshape(rows, tokens, -1) for path in projections]
    top = states["hidden"][-1][:, len(prompt.input_ids) - 1 :]
    question, scores = _asked(model, top, answer, foil)
    return Baseline(
        model=model,
        prompt=prompt,
        drawn=drawn,
        question=question,
        ids=ids,
        scores=scores,
        embedded=first.input,
        states=states,
        keys_values=KeysValues.of(cache),
    )


def _asked(
    model: LanguageModel, top: Float[Tensor, "rows answer d_model"], answer: tuple[int, ...], foil: int | None
) -> tuple[Question, Float[Tensor, "rows metrics"]]:
    """The question with the clean run's distribution, and every row's metrics; one row's logits at a time."""
    clean = model.unembed(top[:1]).float().log_softmax(-1)[0]
    question = Question(answer, foil, clean)
    scores = torch.cat([measure(model.unembed(row), question) for row in torch.split(top, 1)])
    if not bool(torch.isfinite(scores[:, :2]).all()):
        raise TraceError(
            "the model's probabilities are not finite on this prompt: load it in a wider type (--dtype float32)"
        )
    return question, scores
