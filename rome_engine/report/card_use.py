"""A card's last section: how to load what it comes with, in the form in which that is kept, and how to undo it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal

from rome_engine.model import embedded

Form = Literal["edit", "merged", "adapter"]
"""An edit's file; the edited model's folder; the adapter's folder."""


def use(form: Form, model: str, path: str) -> str:
    """The section on what lies at `path`, made of the model of this name."""
    return {"edit": _edit, "merged": _merged, "adapter": _adapter}[form](model, path)


def shown(model: str) -> str:
    """What others can know a model by: its name or Hub id; of a folder the last part of its path alone."""
    folder = Path(model)
    is_local = folder.is_absolute() or model.startswith((".", "~")) or folder.is_dir()
    return folder.resolve().name if is_local else model


def base(model: str) -> str:
    """The model's id on the Hub, where it has one, else as it is shown."""
    return embedded.HUB_ID if model == embedded.NAME else shown(model)


def _edit(model: str, path: str) -> str:
    named = "" if model == embedded.NAME else f" --model {shlex.quote(shown(model))}"
    return (
        "## To apply it and to undo it\n\n"
        "```sh\n"
        f'rome-engine ask "PROMPT"{named} --edit {shlex.quote(path)}\n'
        "```\n\n"
        "```python\n"
        "from rome_engine.edit import Edit\n"
        "from rome_engine.model import LanguageModel\n\n"
        f"model = LanguageModel.load({shown(model)!r})\n"
        f"edit = Edit.load({path!r})\n"
        "with edit.applied(model):\n"
        "    ...  # edited here, and bit for bit what it was afterwards\n"
        "handle = edit.apply_(model)  # for good, until\n"
        "handle.undo()\n"
        "```\n"
    )


def _merged(model: str, path: str) -> str:
    return (
        "## To use it\n\n"
        "```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"model = AutoModelForCausalLM.from_pretrained({path!r}){_here(path)}\n"
        f"tokenizer = AutoTokenizer.from_pretrained({path!r})\n"
        "```\n\n"
        f"The edit is part of these weights: without it the model is {shown(model)}.\n"
    )


def _adapter(model: str, path: str) -> str:
    load = f"base = AutoModelForCausalLM.from_pretrained({shown(model)!r})  # the model that was edited\n"
    source = "transformers import AutoModelForCausalLM"
    if model == embedded.NAME:
        load = f"base = LanguageModel.load({model!r}).module  # {embedded.HUB_ID} as it was quantised and edited\n"
        source = "rome_engine.model import LanguageModel"
    return (
        "## To apply it and to undo it\n\n"
        "```python\n"
        "from peft import PeftModel\n"
        f"from {source}\n\n"
        f"{load}"
        f"model = PeftModel.from_pretrained(base, {path!r}){_here(path)}\n"
        "with model.disable_adapter():\n"
        "    ...  # here it is as it was before the edit\n"
        "base = model.unload()  # and so for good\n"
        "```\n"
    )


def _here(path: str) -> str:
    return "  # this folder" if path == "." else ""
