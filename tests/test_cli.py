"""What Lightning's words do here: where runs land, how they go on, what is kept."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from rlhf_forge.__main__ import main
from rlhf_forge.cli import ForgeCLI
from rlhf_forge.data.format import Kind
from rlhf_forge.parsed_stage import parsed_stage
from tests.backbone.test_bitsandbytes_guard import AVX512_BF16_CPU, FAKE_KERNELS
from tests.tiny_project import QUIET, STAGES, told

pytestmark = QUIET
FIT = ["fit", "--config", "sft.yaml"]
LAST = Path("lightning_logs/x/sft/checkpoints/last.ckpt")


def weights(run: str) -> dict[str, torch.Tensor]:
    return load_file(f"lightning_logs/{run}/sft/artefact/adapter_model.safetensors")


# -- what is kept ---------------------------------------------------------------------------------


def test_a_second_fit_keeps_the_first_one(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = weights("x")
    assert main([*FIT, "--seed_everything", "1"]) == 0
    assert "what was there is kept as lightning_logs/x/sft.1" in capsys.readouterr().err
    kept = load_file("lightning_logs/x/sft.1/artefact/adapter_model.safetensors")
    assert all(torch.equal(first[name], kept[name]) for name in first)
    assert not all(torch.equal(first[name], weights("x")[name]) for name in first)


def test_a_trial_of_one_batch_leaves_a_finished_run_alone(trained: Path) -> None:
    before = {path: path.read_bytes() for path in Path("lightning_logs").rglob("*.safetensors")}
    assert main([*FIT, "--trainer.fast_dev_run", "true"]) == 0
    assert {p: p.read_bytes() for p in Path("lightning_logs").rglob("*.safetensors")} == before


def test_the_runs_config_trains_the_same_again(trained: Path) -> None:
    config = "lightning_logs/x/sft/config.yaml"
    assert yaml.safe_load(Path(config).read_text())["ckpt_path"] is None
    assert main(["fit", "--config", config, "--run", "again"]) == 0
    first, second = weights("x"), weights("again")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_runs_config_stays_that_of_its_training(trained: Path) -> None:
    before = Path("lightning_logs/x/sft/config.yaml").read_text()
    assert main([*FIT, "--ckpt_path", "last"]) == 0
    assert main(["validate", "--config", "sft.yaml", "--data.batch_size", "2"]) == 0
    assert Path("lightning_logs/x/sft/config.yaml").read_text() == before


# -- links ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "source"),
    [
        ("data.kind", "pairs", "the class of the model"),
        ("data.tokenizer", "elsewhere", "model.init_args.backbone.path"),
        ("model.init_args.seed", "5", "seed_everything"),
        ("model.seed", "5", "seed_everything"),
    ],
)
def test_a_key_that_follows_from_another_is_refused_and_never_silently_beaten(
    key: str, value: str, source: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = f"{key}: follows from {source}, so it cannot be set by itself"
    assert told([*FIT, f"--{key}", value], capsys)[0] == error
    assert told([*FIT, f"--{key}={value}"], capsys)[0] == error


def test_such_a_key_is_refused_in_a_file_too(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("more.yaml").write_text("data: {kind: pairs}\n")
    assert "data.kind: follows from" in told([*FIT, "--config", "more.yaml"], capsys)[0]
    Path("more.yaml").write_text("data: {data}\n".replace("{data}", "data.yaml"))
    Path("data.yaml").write_text("path: pairs.jsonl\nkind: pairs\n")
    assert "data.kind: follows from" in told([*FIT, "--config", "more.yaml"], capsys)[0]


@pytest.mark.parametrize(
    ("key", "value", "linked"),
    [
        (
            "model",
            '{"class_path": "SFTModule", "init_args": {"seed": 3, "backbone": {"path": "base"}}}',
            "model.init_args.seed",
        ),
        ("model.init_args", '{"seed": 3}', "model.init_args.seed"),
        ("data", '{"path": "pairs.jsonl", "tokenizer": "x"}', "data.tokenizer"),
        ("data", "path: pairs.jsonl\nkind: pairs", "data.kind"),
        ("data", "data.yaml", "data.kind"),
    ],
)
def test_such_a_key_is_refused_inside_another_one_too(
    key: str, value: str, linked: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("data.yaml").write_text("path: pairs.jsonl\nkind: pairs\n")
    assert told([*FIT, f"--{key}", value], capsys)[0].startswith(f"{linked}: follows from")
    assert told([*FIT, f"--{key}={value}"], capsys)[0].startswith(f"{linked}: follows from")


def test_what_follows_has_the_value_of_its_source(project: Path) -> None:
    config = parsed_stage([*FIT[1:], "--seed_everything", "7"]).config
    assert config.model.init_args.seed == 7
    assert config.data.tokenizer == config.model.init_args.backbone.path == "base"
    assert config.data.kind == "demonstrations"


@pytest.mark.parametrize("arguments", [["KEY=null"], ["KEY", "null"]])
@pytest.mark.parametrize("key", ["updates.target_kl", "objective.kl_target", "updates.dual_clip"])
def test_null_on_the_command_line_unsets_a_number(
    key: str, arguments: list[str], project: Path
) -> None:
    option = f"--model.init_args.{key}"
    group, name = key.split(".")
    command = ["--config", "ppo.yaml", f"{option}=3"]
    assert parsed_stage(command).config.model.init_args[group][name] == 3
    command += [argument.replace("KEY", option) for argument in arguments]
    assert parsed_stage(command).config.model.init_args[group][name] is None


def test_one_number_of_the_adapters_shape_can_be_set_by_itself(project: Path) -> None:
    text = (project / "sft.yaml").read_text().replace(", lora: {r: 2, alpha: 4}", "")
    (project / "sft.yaml").write_text(text)
    assert parsed_stage(FIT[1:]).module().backbone_config.lora is None
    lora = ["--model.init_args.backbone.lora.r", "8"]
    assert str(parsed_stage([*FIT[1:], *lora]).module().backbone_config.lora) == "r 8, alpha 32"


# -- what is said ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("stage", "following"), [("sft", "reward"), ("reward", "ppo")])
def test_fit_ends_with_where_things_are_and_the_next_command(
    stage: str, following: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine").mkdir()
    for name in STAGES:
        Path(f"{name}.yaml").rename(f"mine/{name}.yaml")
    capsys.readouterr()
    assert main(["fit", "--config", f"mine/{stage}.yaml"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    folder = f"lightning_logs/x/{stage}"
    lines = err.splitlines()
    start = lines.index(f"artefact: {folder}/artefact")
    assert [*lines[start : start + 2], lines[-1]] == [
        f"artefact: {folder}/artefact",
        f"logs: {folder}",
        f"{'then' if stage == 'reward' else 'next'}: "  # two steps make no good reward model
        f"python -m rlhf_forge fit --config mine/{following}.yaml --run x",
    ]


def test_the_next_command_of_a_shipped_config_is_its_neighbour() -> None:
    stage = parsed_stage(["--config", "quickstart/sft.yaml"])
    words = "python -m rlhf_forge fit --config quickstart/reward.yaml --run quickstart"
    assert stage.command_of("reward") == words


@pytest.mark.parametrize(
    "typed", [["--data.path", "my pairs.jsonl"], ["--data.path=my pairs.jsonl"]]
)
def test_the_next_command_takes_the_data_along_that_was_typed(typed: list[str]) -> None:
    stage = parsed_stage(["--config", "quickstart/sft.yaml", *typed, "--run", "mine"])
    assert stage.command_of("reward") == (
        "python -m rlhf_forge fit --config quickstart/reward.yaml "
        "--data.path 'my pairs.jsonl' --run mine"
    )


def test_the_reward_model_is_not_told_to_learn_from_demonstrations() -> None:
    typed = ["--config", "quickstart/sft.yaml", "--run", "mine"]
    named = [*typed, "--data.path", "mine.jsonl"]
    words = "next: python -m rlhf_forge fit --config quickstart/reward.yaml"
    cases: list[tuple[list[str], Kind, str]] = [
        (named, "demonstrations", " --data.path PAIRS"),
        (named, "pairs", " --data.path mine.jsonl"),
        (typed, "demonstrations", ""),
    ]
    for arguments, gives, data in cases:
        assert list(parsed_stage(arguments).following(gives)) == [f"{words}{data} --run mine"]


def test_after_ppo_comes_the_chat(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ForgeCLI("fit", ["--config", "ppo.yaml"]).say_next()
    words = "next: python -m rlhf_forge chat lightning_logs/x/ppo/artefact\n"
    assert capsys.readouterr().err == words


@pytest.mark.parametrize("word", ["validate", "test"])
@pytest.mark.parametrize("stage", STAGES)
def test_held_out_metrics_are_data_on_stdout(
    word: str, stage: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word, "--config", f"{stage}.yaml"]) == 0
    out, err = capsys.readouterr()
    rows = dict(line.split() for line in out.splitlines())
    prefix = "val" if word == "validate" else "test"
    assert f"{prefix}/{'score' if stage == 'ppo' else 'loss'}" in rows
    assert all(float(value) == float(value) for value in rows.values())
    assert "data:" not in err


@pytest.mark.parametrize("stage", STAGES)
def test_predict_writes_a_line_for_every_held_out_record(
    stage: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "--config", f"{stage}.yaml"]) == 0
    path = Path(f"lightning_logs/x/{stage}/predictions.jsonl")
    assert capsys.readouterr().err.endswith(f"predictions: {path}\n")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == len(parsed_stage(["--config", f"{stage}.yaml"]).data().held_out)
    assert rows[0].keys() >= ({"chosen_score"} if stage == "reward" else {"response"})


# -- what a config adds ---------------------------------------------------------------------------


def test_a_logger_and_a_callback_of_the_config_are_used(project: Path) -> None:
    Path("more.yaml").write_text(
        "trainer:\n"
        "  logger: {class_path: CSVLogger, init_args: {save_dir: csv, name: '', version: ''}}\n"
        "  callbacks: [{class_path: LearningRateMonitor}]\n"
    )
    assert main([*FIT, "--config", "more.yaml"]) == 0
    header = Path("csv/metrics.csv").read_text().splitlines()[0]
    assert "sft/loss" in header
    assert "lr-AdamW" in header
    assert Path("lightning_logs/x/sft/config.yaml").is_file()


def test_a_plugin_of_the_config_is_kept_beside_ours(project: Path) -> None:
    Path("more.yaml").write_text(
        "trainer: {plugins: [{class_path: lightning.pytorch.plugins.environments."
        "LightningEnvironment}]}\n"
    )
    assert main([*FIT, "--config", "more.yaml"]) == 0
    assert LAST.is_file()


@pytest.mark.slow  # a fresh interpreter that trains
def test_no_stage_lets_a_kernel_of_the_hub_be_fetched(project: Path) -> None:
    Path("kernels.py").write_text(FAKE_KERNELS)
    code = (
        f"import sys\nsys.path.insert(0, {str(project)!r})\n{AVX512_BF16_CPU}\n"
        "from rlhf_forge.__main__ import main\n"
        f"sys.exit(main({FIT!r}))"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "ASKED" in result.stdout, "bitsandbytes was never imported: the test shows nothing"
    assert "CALLED" not in result.stdout


@pytest.mark.parametrize(
    "lines",
    [
        "",
        "enable_progress_bar: false",
        "callbacks: [{class_path: TQDMProgressBar}]",
        "callbacks: [{class_path: ModelCheckpoint, init_args: {dirpath: mine, save_last: true}}]",
    ],
)
def test_a_config_may_bring_its_own_bar_and_its_own_checkpoints(
    lines: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("more.yaml").write_text(f"trainer: {{{lines}}}\n")
    assert main([*FIT, "--config", "more.yaml"]) == 0
    assert ("tokens/s" in capsys.readouterr().err) == ("Bar" not in lines and "bar" not in lines)
    assert LAST.is_file()
    assert Path("mine/last.ckpt").is_file() == ("ModelCheckpoint" in lines)
