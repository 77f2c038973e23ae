"""The value search computes a part of the model only, and finds what a search over the whole of it finds."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import pytest
import torch
from torch import Tensor

from rome_engine.edit.context import Contexts
from rome_engine.edit.question import Batch, Question
from rome_engine.edit.value import Place, Progress, Value, ValueConfig, search
from rome_engine.errors import EditError
from rome_engine.facts import Fact
from rome_engine.model.hooks import EditOutput, Trace, first_tensor, with_first_tensor
from rome_engine.model.language_model import LanguageModel
from tests import tiny
from tests.edit.examples import AT_START, FACT

CONTEXTS = Contexts(("{}", "The capital. {}", "To visit it, you have to travel to England. {}"))
CONFIG = ValueConfig(steps=5, clamp=0.6)


@pytest.mark.parametrize("fact", [FACT, AT_START], ids=["inside", "at the start"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_equals_a_search_over_whole_texts(family: str, fact: Fact) -> None:
    model = tiny.shared(family)
    places: tuple[Place, ...] = ("mlp", "hidden", "both") if family in ("gpt2", "gemma2") else ("mlp", "both")
    for place in places:
        _compare(model, fact, layer=1, place=place)


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("family", ["llama", "gemma3", "neox", "olmo2"])
def test_equals_it_to_rounding_at_every_depth_in_float64(family: str, layer: int) -> None:
    for place in ("mlp", "both"):
        _compare(tiny.language_model(family, dtype=torch.float64), FACT, layer, place, tolerance=1e-8)


def _compare(model: LanguageModel, fact: Fact, layer: int, place: Place, tolerance: float = 1e-4) -> None:
    target = model.target_ids(fact.text, str(fact.target_new))
    found = _search(model, fact, layer, CONFIG, place=place)
    initial, delta, losses = _brute_force(model, fact, target, layer, place)
    assert len(found.losses) == CONFIG.steps
    assert found.losses == pytest.approx(losses, rel=tolerance)
    assert delta.norm() > 0.01 * initial.norm()
    assert (found.initial - initial).norm() <= tolerance * initial.norm()
    assert (found.delta - delta).norm() <= tolerance * delta.norm()
    assert torch.equal(found.target, found.initial + found.delta)


def _search(
    model: LanguageModel,
    fact: Fact,
    layer: int,
    config: ValueConfig,
    *,
    place: Place = "mlp",
    progress: Progress | None = None,
) -> Value:
    """Of one fact alone."""
    question = Question(model, fact, model.target_ids(fact.text, str(fact.target_new)), CONTEXTS)
    [(_, value)] = search(Batch([question]), layer, config, place=place, progress=progress)
    return value


def _brute_force(
    model: LanguageModel, fact: Fact, target: tuple[int, ...], layer: int, place: Place
) -> tuple[Tensor, Tensor, list[float]]:
    """The definition: every text alone, from its first token to its last, through the whole model."""
    prompts = [model.tokenize(template, fact.subject) for template in CONTEXTS.prompts(fact)]
    essence = model.tokenize("{} is a", fact.subject)
    modules = {
        "mlp": [model.down_projection(layer)],
        "hidden": [model.output("hidden", layer)],
        "both": [model.down_projection(layer), model.output("attn", layer)],
    }[place]

    def logits(ids: tuple[int, ...], at: int, deltas: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        seen = {}

        def adding(part: int) -> EditOutput:
            def add(output: object, _layer: str | None) -> object:
                states = first_tensor(output)
                rows = states.reshape(len(ids), -1)
                seen[part] = rows[at].detach()
                moved = torch.cat([rows[:at], rows[at : at + 1] + deltas[part], rows[at + 1 :]])
                return with_first_tensor(output, moved.reshape(states.shape))

            return add

        with ExitStack() as traces:
            for part, module in enumerate(modules):
                traces.enter_context(Trace(module, edit_output=adding(part)))
            result = model.module(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        return result.log_softmax(-1), [seen[part] for part in range(len(modules))]

    none = [torch.zeros(model.d_model, dtype=model.dtype) for _ in modules]
    initial = logits(prompts[0].input_ids, prompts[0].last_subject_token, none)[1]
    at = essence.last_subject_token
    unchanged = logits(essence.input_ids, at, none)[0][at].detach()
    deltas = [start.clone().requires_grad_() for start in none]
    optimiser = torch.optim.Adam(deltas, lr=CONFIG.learning_rate)
    losses = []
    for step in range(CONFIG.steps):
        nll = []
        for prompt in prompts:
            spoken, _ = logits((*prompt.input_ids, *target[:-1]), prompt.last_subject_token, deltas)
            tail = spoken[-len(target) :]
            nll.append(-torch.stack([tail[index, token] for index, token in enumerate(target)]).mean())
        drifted = logits(essence.input_ids, at, deltas)[0][at]
        divergence = (drifted.exp() * (drifted - unchanged)).sum()
        penalty: Tensor | float = 0.0
        for delta, start in zip(deltas, initial, strict=True):
            penalty = penalty + (CONFIG.decay * delta.norm() / start.norm() ** 2 if delta.any() else 0.0)
        loss = torch.stack(nll).mean() + CONFIG.kl * divergence + penalty
        losses.append(loss.item())
        if step + 1 == CONFIG.steps:
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            for delta, start in zip(deltas, initial, strict=True):
                if delta.norm() > CONFIG.clamp * start.norm():
                    delta *= CONFIG.clamp * start.norm() / delta.norm()
    return initial[0], deltas[0].detach(), losses


def test_stops_below_the_wanted_loss_and_keeps_delta_within_the_clamp() -> None:
    model = tiny.shared("llama")
    full = _search(model, FACT, 1, ValueConfig(steps=12, clamp=0.5))
    assert not full.stopped_early and len(full.losses) == 12
    assert full.delta.norm() == pytest.approx(0.5 * float(full.initial.norm()), rel=1e-3)  # it would be longer
    early = _search(model, FACT, 1, ValueConfig(steps=12, clamp=0.5, stop_loss=full.losses[3] + 1e-6))
    assert early.stopped_early and early.losses == full.losses[:4]


def test_reports_each_step_and_lets_an_interrupt_through() -> None:
    model = tiny.shared("llama")
    told: list[tuple[int, int, float]] = []
    found = _search(model, FACT, 1, ValueConfig(steps=3), progress=lambda *step: told.append(step))
    assert told == [(index + 1, 3, loss) for index, loss in enumerate(found.losses)]

    def interrupt(*_step: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _search(model, FACT, 1, ValueConfig(steps=3), progress=interrupt)
    assert not any(parameter.requires_grad for parameter in model.module.parameters())


def test_works_without_gradients_around_and_in_half_precision() -> None:
    model = tiny.language_model("llama", dtype=torch.bfloat16)
    with torch.no_grad():
        found = _search(model, FACT, 1, ValueConfig(steps=6))
    assert found.delta.dtype == found.target.dtype == torch.float32
    assert found.losses[-1] < found.losses[0]


def test_a_loss_that_is_no_number_names_the_fact_and_leaves_what_was_done() -> None:
    model = tiny.language_model("llama")
    questions = [
        Question(model, fact, model.target_ids(fact.text, str(fact.target_new)), CONTEXTS) for fact in (FACT, AT_START)
    ]
    # A token that only the first of the two has behind its subject.
    bare = questions[0].texts[0]
    own = next(iter(set(bare.ids[bare.cut + 1 :]) - {token for row in questions[1].texts for token in row.ids}))
    model.module.get_input_embeddings().weight.data[own] = float("nan")
    searched = search(Batch(questions), 1, ValueConfig(stop_loss=1e9))
    assert next(searched)[0] is questions[1]
    with pytest.raises(EditError, match=r"Eiffel Tower .* → 'Rome, the capital' .*failed in step 1: the loss is nan"):
        next(searched)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"learning_rate": 0.0}, {"clamp": 0.0}, {"decay": -1.0}, {"kl": -1.0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(EditError, match="must be at least 1"):
        ValueConfig(**wrong)  # type: ignore[arg-type]


def test_the_last_layer_is_refused_where_the_answer_comes_later() -> None:
    """What the last block puts out at one token reaches no other."""
    model = tiny.shared("llama")
    last = tiny.LAYERS - 1
    with pytest.raises(EditError, match=f"layer {last} is the last one"):
        _search(model, FACT, last, ValueConfig())
    ends = Fact("The capital of France, and the Space Needle, {}", "Paris", target_new="Rome")
    _search(model, ends, last, ValueConfig(steps=2))
