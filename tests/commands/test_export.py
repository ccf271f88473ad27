"""What other tools get, and what is said about it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_forge.artefact import read_manifest
from rlhf_forge.backbone.adapter_files import read_adapter
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig, Precision
from rlhf_forge.backbone.frozen_linear import dense_weight
from rlhf_forge.backbone.loading import load_base
from rlhf_forge.backbone.merging import merged_copy
from rlhf_forge.backbone.scoring import score
from rlhf_forge.backbone.stock import stock_scores
from rlhf_forge.commands.export import export
from rlhf_forge.data.records import assistant, user
from rlhf_forge.errors import UserError
from tests import tiny
from tests.data.go_templates import fill
from tests.tiny_run import CONTEXT, write_base, write_run


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("export") / "base")


@pytest.fixture(scope="module")
def run(base: Path) -> Path:
    return write_run(base.parent / "tiny", base=base)


@pytest.mark.parametrize("stage", ["ppo", "reward"])
def test_stock_peft_computes_what_we_compute(
    run: Path, tmp_path: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out" / stage
    assert export(run / stage / "artefact", out) == 0
    told = capsys.readouterr()
    assert told.out.splitlines()[-1] == str(out)
    assert "stock transformers + peft against ours" in told.err
    assert float(told.err.partition("difference ")[2].split()[0]) < 1e-4
    assert "AutoPeftModel" in (out / "README.md").read_text()
    assert (out / "chat_template.jinja").is_file()
    assert read_manifest(out) == read_manifest(run / stage / "artefact")


def test_raw_scores_and_the_scale_in_forge_json_give_our_score(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "reward"
    export(run / "reward" / "artefact", out)
    scale = json.loads((out / "forge.json").read_text())
    backbone = Backbone(load_base(BackboneConfig(scale["base"], "fp32"), tiny.CPU), tiny.LORA)
    backbone.add_role("reward", read_adapter(out), trainable=False)
    rows = [(golden["tokens"], golden["targets"]) for golden in scale["golden"]]
    for raw, (tokens, targets) in zip(stock_scores(out, rows), rows, strict=True):
        with torch.no_grad():
            ours = score(backbone, torch.tensor([tokens]), torch.tensor([targets]).bool()).item()
        assert (raw - scale["reward_mean"]) / scale["reward_std"] == pytest.approx(ours, abs=1e-4)


def test_a_folder_that_other_tools_read_differently_is_a_finding(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artefact = write_run(tmp_path / "run", base=base) / "reward" / "artefact"
    ours = load_file(artefact / "head.safetensors")
    save_file(ours | {"weight": 2 * ours["weight"]}, artefact / "head.safetensors")
    assert export(artefact, tmp_path / "out") == 1
    assert "error: that is more than 0.001" in capsys.readouterr().err


def test_the_share_of_the_sft_model_in_a_score_is_warned_of(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", base=base, likelihood=0.5)
    assert export(run / "reward" / "artefact", tmp_path / "out") == 0
    assert "warning: this reward model adds how likely" in capsys.readouterr().err


@pytest.mark.parametrize(("precision", "largest"), [("fp32", 1e-4), ("bf16", 1.0), ("nf4", 1.0)])
def test_merging_tells_what_it_changed(
    base: Path,
    tmp_path: Path,
    precision: Precision,
    largest: float,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = write_run(tmp_path / "run", base=base, precision=precision)
    assert export(run / "sft" / "artefact", tmp_path / "merged", merge=True) == 0
    told = capsys.readouterr().err
    measured = float(told.partition("at most ")[2].partition(",")[0])
    assert measured <= largest
    if precision != "fp32":
        assert measured > 1e-4


def test_a_merged_model_is_the_dequantised_base_plus_the_update(base: Path, run: Path) -> None:
    model = load_base(BackboneConfig(str(base), "nf4"), tiny.CPU)
    weights = read_adapter(run / "sft" / "artefact")
    name, (down, up) = next(iter(weights.pairs.items()))
    layer = model.get_submodule(name)
    assert isinstance(layer, torch.nn.Linear)
    before = dense_weight(layer, torch.float32)
    merged = merged_copy(model, weights)
    expected = before + 2.0 * up @ down
    got = merged.get_submodule(name).weight
    assert isinstance(got, torch.Tensor)
    assert torch.equal(got, expected.bfloat16())
    assert torch.equal(dense_weight(layer, torch.float32), before)
    assert not hasattr(merged.config, "quantization_config")


def test_a_merged_model_answers_as_its_card_says(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "merged"
    export(run / "ppo" / "artefact", out, merge=True)
    card = (out / "README.md").read_text()
    code = card.partition("```python\n")[2].partition("```")[0]
    exec(code.replace("THIS_FOLDER", str(out)), {})
    assert "[INST] Hello[/INST]" in capsys.readouterr().out


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", base=write_base(tmp_path / "base", tied=True))
    out = tmp_path / "merged"
    assert export(run / "sft" / "artefact", out, merge=True) == 0
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_the_exported_tokenizer_renders_as_in_training(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    export(run / "sft" / "artefact", out, merge=True)
    text = AutoTokenizer.from_pretrained(out).apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False
    )
    assert text == "<s>[INST] Hi[/INST]"


def test_what_exists_is_not_overwritten(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists already"):
        export(run / "ppo" / "artefact", tmp_path)


def test_a_reward_model_is_not_merged(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not merged"):
        export(run / "reward" / "artefact", tmp_path / "out", merge=True)
    assert not (tmp_path / "out").exists()


def test_an_artefact_whose_base_changed_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", base=write_base(tmp_path / "base"))
    write_base(tmp_path / "base", seed=1)
    with pytest.raises(UserError, match="another base"):
        export(run / "ppo" / "artefact", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_broken_artefact_is_refused_and_nothing_is_left_behind(
    base: Path, tmp_path: Path
) -> None:
    config = write_run(tmp_path / "broken", base=base) / "ppo/artefact/adapter_config.json"
    config.write_text(config.read_text()[:40])
    with pytest.raises(UserError, match="broken JSON"):
        export(config.parent, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


@pytest.fixture(scope="module")
def ollama(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ollama") / "model"
    assert export(run / "ppo" / "artefact", out, to="ollama") == 0
    return out


def test_ollama_gets_half_precision_weights_and_a_tokenizer_that_begins(ollama: Path) -> None:
    weights = load_file(ollama / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    assert json.loads((ollama / "config.json").read_text())["dtype"] == "float16"
    tokenizer = json.loads((ollama / "tokenizer_config.json").read_text())
    assert (tokenizer["add_bos_token"], tokenizer["add_eos_token"]) == (True, False)


def test_the_modelfile_has_the_template_and_the_end_of_an_answer(ollama: Path) -> None:
    text = (ollama / "Modelfile").read_text()
    template = text.partition('TEMPLATE """')[2].partition('"""')[0]
    turns = [{"role": "system", "content": "Be brief."}, *user("Hi"), *assistant("Yes?")]
    assert fill(template, turns[1:2]) == "[INST] Hi[/INST]"
    whole = [*turns, {"role": "user", "content": "Why?"}]
    assert fill(template, whole) == "[INST] Be brief.\n\nHi[/INST] Yes?</s>[INST] Why?[/INST]"
    rest = text.replace(template, "").splitlines()
    assert [line for line in rest if line.startswith(("FROM", "PARAMETER stop"))] == [
        "FROM .",
        'PARAMETER stop "</s>"',
    ]
    assert f"PARAMETER num_ctx {CONTEXT}" in rest


def test_the_checks_are_what_stock_transformers_answers(ollama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(ollama, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(ollama)
    checks = [json.loads(line) for line in (ollama / "check.jsonl").read_text().splitlines()]
    assert [turn["role"] for check in checks for turn in check["messages"]].count("system") == 1
    assert len(checks) == 3
    for check in checks:
        text = tokenizer.apply_chat_template(check["messages"], tokenize=False)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        made = model.generate(ids, do_sample=False, max_new_tokens=48, pad_token_id=0)
        answer = tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
        assert str(answer).strip() == check["answer"]


def test_the_card_of_a_model_for_ollama_asks_as_it_says(ollama: Path) -> None:
    code = (ollama / "README.md").read_text().rpartition("```console\n")[2].partition("```")[0]
    asking, _, sent = code.partition(" \\\n    | curl")
    assert sent.startswith(" -s http://127.0.0.1:11434/api/chat -d @-")
    asked = subprocess.run(asking, shell=True, cwd=ollama, capture_output=True, check=True)
    assert json.loads(asked.stdout)["options"]["num_predict"] == 48


def test_weights_that_half_precision_cannot_hold_are_refused(base: Path, tmp_path: Path) -> None:
    large = tmp_path / "base"
    shutil.copytree(base, large)
    weights = load_file(large / "model.safetensors")
    name = "model.norm.weight"
    save_file(weights | {name: 1e6 * weights[name]}, large / "model.safetensors", {"format": "pt"})
    run = write_run(tmp_path / "run", base=large)
    with pytest.raises(UserError, match="too large for float16"):
        export(run / "ppo" / "artefact", tmp_path / "out", to="ollama")
    assert not list(tmp_path.glob("out*"))


def test_a_reward_model_is_not_for_ollama(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not merged"):
        export(run / "reward" / "artefact", tmp_path / "out", to="ollama")


def test_sentencepiece_s_own_file_goes_along(base: Path, tmp_path: Path) -> None:
    pieces = tmp_path / "base"
    shutil.copytree(base, pieces)
    (pieces / "tokenizer.model").write_bytes(b"pieces")
    run = write_run(tmp_path / "run", base=pieces)
    export(run / "sft" / "artefact", tmp_path / "out", to="ollama")
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == b"pieces"


def test_nobody_is_shown_the_bars_of_transformers(run: Path, tmp_path: Path) -> None:
    words = ["export", str(run / "ppo" / "artefact"), str(tmp_path / "out"), "--merge"]
    command = [sys.executable, "-m", "rlhf_forge", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "merged against base + adapter" in done.stderr
    assert not [bar for bar in ("Loading weights", "Writing model shards") if bar in done.stderr]
