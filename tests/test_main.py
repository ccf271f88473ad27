"""What a person sees who mistypes: one line, at most one hint, no traceback, status 2."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from rlhf_forge.__main__ import main
from rlhf_forge.errors import UserError
from rlhf_forge.parsed_stage import parsed_stage
from tests.tiny_project import QUIET, told, write_base

pytestmark = QUIET
FIT = ["fit", "--config", "sft.yaml"]


def run_python(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


# -- help -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_fits_a_small_terminal(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 25
    assert max(map(len, lines)) <= 80
    assert "python -m rlhf_forge COMMAND" in lines[0]


@pytest.mark.parametrize("arguments", [["help"], ["inspect-data", "--explain", "PREF101"]])
def test_a_reader_who_leaves_early_is_no_error(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "rlhf_forge", *arguments]
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_help_and_the_help_of_our_commands_import_no_torch() -> None:
    code = (
        "import sys\n"
        "from rlhf_forge.__main__ import main\n"
        "from rlhf_forge.words import COMMANDS\n"
        "assert main(['--help']) == 0\n"
        "for word in COMMANDS:\n"
        "    assert main([word, '--help']) == 0, word\n"
        "heavy = {'torch', 'lightning', 'transformers', 'peft', 'numpy'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)\n"
    )
    result = run_python(code)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow  # a fresh interpreter that imports Lightning
def test_the_help_of_a_stage_imports_nothing_that_only_a_run_needs() -> None:
    code = (
        "import gc, sys\n"
        "from rlhf_forge.__main__ import main\n"
        "assert main(['fit', '--help']) == 0\n"
        "assert gc.isenabled()\n"
        "late = {'peft', 'bitsandbytes', 'datasets', 'tensorboard', 'litserve', 'rensa'}\n"
        "sys.exit(', '.join(sorted(late & set(sys.modules))) or 0)\n"
    )
    result = run_python(code)
    assert result.returncode == 0, result.stderr


def test_the_module_and_its_exit_status_work_as_typed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rlhf_forge", "fti"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr == "error: no command 'fti'\nhint: did you mean fit?\n"


# -- the words ------------------------------------------------------------------------------------


def test_a_mistyped_command_is_told_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(["pipelin"], capsys) == ("no command 'pipelin'", "did you mean pipeline?")
    assert told(["xyzzy"], capsys) == ("no command 'xyzzy'", "")


def test_a_command_behind_its_options_is_told_with_the_right_order(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error, hint = told(["--config", "my sft.yaml", "fit"], capsys)
    assert error == "--config: the first word must be a command"
    assert hint == "python -m rlhf_forge fit --config 'my sft.yaml'"


def test_a_config_without_its_option_is_told_how_to_give_it(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(["fit", "sft.yaml"], capsys)[1] == "did you mean --config sft.yaml?"
    assert told([*FIT, "extra"], capsys) == ("'extra': not an option", "")


def test_without_a_config_the_way_to_give_one_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    error, hint = told(["fit"], capsys)
    assert error == "model: no stage is named"
    assert "--config sft.yaml" in hint


def test_a_missing_config_lists_those_that_exist_and_the_nearest(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error, hint = told(["fit", "--config", "quickstart/sfx.yaml"], capsys)
    assert "no such file: quickstart/sfx.yaml" in error
    assert "quickstart/ppo.yaml, quickstart/reward.yaml, quickstart/sft.yaml" in error
    assert hint == "did you mean quickstart/sft.yaml?"


# -- the config -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "key", "near"),
    [
        ("sft", "runn", "run"),
        ("sft", "data.pth", "data.path"),
        ("sft", "trainer.max_stepz", "trainer.max_steps"),
        ("sft", "model.init_args.total_stepz", "model.init_args.total_steps"),
        ("sft", "model.init_args.backbone.pth", "model.init_args.backbone.path"),
        ("sft", "model.init_args.backbone.lora.ralpha", "model.init_args.backbone.lora.alpha"),
        ("ppo", "model.init_args.updates.ppo_epoch", "model.init_args.updates.ppo_epochs"),
        ("sft", "learning_rate", "model.init_args.optimizer.learning_rate"),
    ],
)
def test_a_mistyped_key_is_told_whole_with_the_nearest_at_any_depth(
    stage: str, key: str, near: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error, hint = told(["fit", "--config", f"{stage}.yaml", f"--{key}", "3"], capsys)
    assert error == f"{key}: no such key"
    assert hint == f"did you mean {near}?"


@pytest.mark.parametrize(
    ("stage", "old", "new", "error", "near"),
    [
        ("sft", "run:", "rum:", "rum: no such key", "run"),
        ("sft", "max_length", "max_lenght", "data.max_lenght: no such key", "data.max_length"),
        (
            "sft",
            "total_steps",
            "total_stps",
            "model.init_args.total_stps: no such key",
            "model.init_args.total_steps",
        ),
        (
            "ppo",
            "minibatch_size",
            "minibatch_siz",
            "model.init_args.updates.minibatch_siz: no such key",
            "model.init_args.updates.minibatch_size",
        ),
        (
            "sft",
            "SFTModule",
            "SFTModul",
            "model.class_path: no such class: rlhf_forge.modules.sft.SFTModul",
            "SFTModule",
        ),
    ],
)
def test_a_mistake_in_a_file_is_told_as_one_on_the_command_line(
    stage: str,
    old: str,
    new: str,
    error: str,
    near: str,
    project: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = project / "mine.yaml"
    path.write_text((project / f"{stage}.yaml").read_text().replace(old, new))
    assert told(["fit", "--config", "mine.yaml"], capsys) == (error, f"did you mean {near}?")


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("data.batch_size", "2.5", ": must be a whole number, got 2.5"),
        ("data.map", "[1]", ": must be keys with values or null, got [1]"),
        ("data.bad_records", "ignore", ": must be one of stop, skip, got ignore"),
        ("model.init_args.total_steps", "many", ": must be a whole number, got many"),
        (
            "model.init_args.backbone.precision",
            "fp23",
            ": must be one of nf4, bf16, fp32, got fp23",
        ),
        ("model.init_args.total_steps", "0", " must be 1 or more, got 0"),
        ("model.init_args.micro_batch_tokens", "0", " must be 1 or more, got 0"),
        ("model.init_args.optimizer.learning_rate", "-1", " must be above 0 and finite, got -1.0"),
        ("model.init_args.sampling.top_p", "3", " must be in (0, 1], got 3.0"),
        ("model.init_args.backbone.lora.r", "many", ": must be a whole number, got many"),
        ("model.init_args.backbone.lora", "3", ": must be keys with values or null, got 3"),
        (
            "model.init_args.backbone.lora",
            "{r: 0}",
            " must have positive r and alpha, got r 0, alpha 4",
        ),
        ("data.batch_size", "0", ": must be 1 or more, got 0"),
        ("data.validation_limit", "-1", ": must be 1 or more, got -1"),
        ("model.init_args.optimizer.eps", "-1", " must be above 0 and finite, got -1.0"),
        ("seed_everything", "true", ": must be a whole number, got True"),
        ("seed_everything", "-1", ": must be a whole number from 0 to 2**32 - 1, got -1"),
        ("checkpoint_every", "0", ": must be 1 or more, got 0"),
    ],
)
def test_a_wrong_value_is_told_with_its_whole_key_and_the_rule(
    key: str, value: str, rule: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told([*FIT, f"--{key}", value], capsys)[0] == f"{key}{rule}"


def test_a_value_out_of_range_in_ppo_is_told_with_its_whole_key(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = ["fit", "--config", "ppo.yaml"]
    gamma = "model.init_args.updates.gamma"
    assert told([*fit, f"--{gamma}", "2"], capsys)[0] == f"{gamma} must be in [0, 1], got 2.0"
    size = "model.init_args.updates.minibatch_size"
    error = f"{size}: must divide data.batch_size (4) x rollout.responses_per_prompt (1), got 3"
    assert told([*fit, f"--{size}", "3"], capsys)[0] == error


@pytest.mark.parametrize(
    ("line", "error"),
    [
        # The base has a context of 128, and all stages sample 4 tokens.
        ("fit sft --data.max_length 129", "data.max_length: must be at most 128, got 129"),
        ("predict sft --data.max_length 125", "data.max_length: must be at most 124, got 125"),
        ("fit reward --data.max_length 125", "data.max_length: must be at most 124, got 125"),
        ("fit ppo --data.max_length 125", "data.max_length: must be at most 124, got 125"),
        (
            "fit ppo --model.init_args.rollout.max_new_tokens 128",
            "model.init_args.rollout.max_new_tokens: must be at most 127, got 128",
        ),
    ],
)
def test_what_is_longer_than_the_context_of_the_base_is_told_with_its_key(
    line: str, error: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    word, stage, *options = line.split()
    told_error, hint = told([word, "--config", f"{stage}.yaml", *options], capsys)
    assert told_error == error
    assert "128 tokens" in hint
    assert ("up to 4 of them (model.init_args." in hint) == error.endswith("125")


def test_what_fills_the_context_of_the_base_is_taken(trained: Path) -> None:
    assert main([*FIT, "--run", "y", "--data.max_length", "128"]) == 0
    ppo = ["fit", "--config", "ppo.yaml", "--data.max_length", "124"]
    assert main(ppo) == 0


def test_a_horizon_too_short_for_the_rollout_is_told(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objective = "model.init_args.objective"
    fit = ["fit", "--config", "ppo.yaml", "--data.batch_size", "12"]
    short = [f"--{objective}.kl_target", "3", f"--{objective}.kl_horizon", "2"]
    error = f"{objective}.kl_horizon: must be 3 or more for 12 responses an iteration, got 2"
    assert told([*fit, *short], capsys)[0] == error


def test_a_module_that_is_no_stage_is_told(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "lightning.pytorch.demos.boring_classes.BoringModel"
    error, hint = told(["fit", "--model", name, "--data.path", "pairs.jsonl"], capsys)
    assert error == f"model.class_path: not a stage: {name}"
    assert "SFTModule" in hint


def test_an_option_without_its_value_is_told(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told([*FIT, "--data.path"], capsys)[0] == "data.path: needs a value behind it"


def test_a_missing_key_is_told(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (project / "sft.yaml").read_text().replace("path: pairs.jsonl, ", "")
    (project / "mine.yaml").write_text(text)
    assert told(["fit", "--config", "mine.yaml"], capsys)[0] == "data.path: needed, and not given"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_steps", "5"),
        ("max_epochs", "3"),
        ("limit_train_batches", "2"),
        ("accumulate_grad_batches", "2"),
        ("gradient_clip_val", "1.0"),
        ("precision", "bf16-true"),
        ("default_root_dir", "here"),
        ("overfit_batches", "2"),
    ],
)
def test_what_a_stage_decides_itself_is_refused_with_what_to_set_instead(
    key: str, value: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error, hint = told([*FIT, f"--trainer.{key}", value], capsys)
    assert error == f"trainer.{key}: rlhf_forge decides this, got {value}"
    assert hint


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("devices", "auto"),
        ("devices", "-1"),
        ("devices", "0"),
        ("devices", "[]"),
        ("num_nodes", "0"),
        ("strategy", "ddp"),
        ("strategy", "fsdp"),
        ("strategy", "DDPStrategy"),
    ],
)
@pytest.mark.parametrize("word", ["fit", "predict"])
def test_devices_that_are_no_number_and_other_strategies_are_refused(
    word: str, key: str, value: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error, hint = told([word, "--config", "sft.yaml", f"--trainer.{key}", value], capsys)
    assert error.startswith(f"trainer.{key}: ")
    assert error.endswith(f"got {value}") or "DDPStrategy" in error
    assert hint or key == "num_nodes"


def test_one_device_is_taken_by_number_or_by_index(project: Path) -> None:
    def devices(*arguments: str) -> object:
        return parsed_stage(["--config", "sft.yaml", *arguments]).config.trainer.devices

    assert devices() == 1
    assert devices("--trainer.devices", "[3]") == [3]
    assert devices("--trainer.devices", "3,") == "3,"


def test_what_lightning_refuses_is_one_line_too(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error, _ = told([*FIT, "--trainer.accelerator", "gpuu"], capsys)
    assert error.startswith("trainer: You selected an invalid accelerator name")


def test_a_run_is_a_name_and_leads_nowhere_else(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told([*FIT, "--run", "../x"], capsys)[0].endswith("got '../x'")
    assert not (project / "lightning_logs").exists()


# -- base, data and template ----------------------------------------------------------------------


def test_a_base_that_is_not_here_is_told_with_how_to_get_it(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "nobody/model-that-is-not-here"
    error, hint = told([*FIT, "--model.init_args.backbone.path", name], capsys)
    assert f"base {name}: not on this machine" in error
    assert f"hf download {name}" in hint


def test_the_shipped_ppo_config_is_found_by_its_bare_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(__file__).parent.parent
    monkeypatch.chdir(root)
    error, hint = told(["fit", "--config", "ppo.yaml", "--run", "never-made"], capsys)
    assert "needs the artefact of stage sft" in error
    assert hint == "python -m rlhf_forge fit --config sft.yaml --run never-made makes it"


def test_a_model_without_permission_is_told(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    def refuse(*_: object, **__: object) -> NoReturn:
        raise GatedRepoError.__new__(GatedRepoError)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    error, hint = told([*FIT, "--model.init_args.backbone.path", "some/model"], capsys)
    assert "only to accounts that accepted its terms" in error
    assert "hf auth login" in hint


PAIR = '{"prompt": "p", "chosen": "a", "rejected": "b"}\n'


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "d.jsonl: empty: not one record in it"),
        (PAIR + "{broken\n", "d.jsonl:2: broken JSON"),
        (PAIR * 2 + PAIR.replace('"b"', '"a"'), "d.jsonl:3: chosen and rejected are equal"),
        (PAIR + PAIR.replace('"b"', '""'), "d.jsonl:2: empty response"),
        (
            PAIR + PAIR.replace('"p"', '"' + "p " * 99 + '"'),
            "d.jsonl:2: longer than data.max_length",
        ),
        ('{"question": "p", "good": "a", "bad": "b"}', "d.jsonl: no known format"),
    ],
)
def test_a_mistake_in_the_data_is_told_with_file_and_line(
    text: str, error: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (trained / "d.jsonl").write_text(text)
    fit = ["fit", "--config", "reward.yaml", "--data.path", "d.jsonl"]
    assert told(fit, capsys)[0].startswith(error)
    assert (trained / "lightning_logs/x/reward/artefact").is_dir(), "the old run was moved away"


def test_a_reward_stage_without_held_out_records_is_told_before_anything_is_moved(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = ["fit", "--config", "reward.yaml", "--data.validation_fraction", "0"]
    error, hint = told(fit, capsys)
    assert error.startswith("data: scores are centred and scaled on responses to held-out prompts")
    assert "data.validation_fraction" in hint
    assert (trained / "lightning_logs/x/reward/artefact").is_dir(), "the old run was moved away"


def test_a_parent_that_does_not_fit_is_told_before_anything_is_moved(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = trained / "lightning_logs/x/sft/artefact/forge.json"
    told_of = json.loads(manifest.read_text()) | {"base_fingerprint": "0" * 64}
    manifest.write_text(json.dumps(told_of))
    error, _ = told(["fit", "--config", "reward.yaml"], capsys)
    assert "another base" in error
    assert (trained / "lightning_logs/x/reward/artefact").is_dir(), "the old run was moved away"


def test_a_missing_data_file_is_told_with_the_nearest_name(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error, hint = told([*FIT, "--data.path", "pair.jsonl"], capsys)
    assert error == "data.path: no such file: pair.jsonl"
    assert hint == "did you mean pairs.jsonl?"


def test_a_tokenizer_without_a_template_is_told(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error, hint = told([*FIT, "--data.chat_template", "tokenizer"], capsys)
    assert "the tokenizer of base has no chat template" in error
    assert "mistral" in hint


# -- parents --------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["fit", "validate", "predict"])
def test_a_missing_parent_is_told_with_what_makes_it(
    word: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error, hint = told([word, "--config", "reward.yaml", "--run", "nothing"], capsys)
    assert "reward: needs the artefact of stage sft" in error
    assert "lightning_logs/nothing/sft/artefact" in error
    assert hint == "python -m rlhf_forge fit --config sft.yaml --run nothing makes it"


@pytest.mark.parametrize("stage", ["reward", "ppo"])
def test_an_sft_artefact_that_would_not_be_used_is_told(
    stage: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["--model.init_args.reference", "base", "--model.init_args.sft", "some/artefact"]
    error, hint = told(["fit", "--config", f"{stage}.yaml", *base], capsys)
    assert error == "model.init_args.sft: not used with reference: base, got some/artefact"
    assert hint == "leave sft out, or set model.init_args.reference to sft"


def test_a_parent_of_another_shape_is_refused(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = ["fit", "--config", "ppo.yaml", "--model.init_args.backbone.lora.r", "8"]
    error, hint = told(fit, capsys)
    assert error.startswith("model.init_args.backbone.lora: r 8, alpha 4 was given, but this stage")
    assert hint == "leave backbone.lora out, or train that stage with this one"


def test_a_parent_of_another_stage_is_refused(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = ["fit", "--config", "ppo.yaml", "--model.init_args.sft"]
    error, _ = told([*fit, "lightning_logs/x/reward/artefact"], capsys)
    assert "a reward artefact, where one of sft is wanted" in error


def test_a_parent_on_another_base_is_refused(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_base(trained / "other", seed=1)
    fit = ["fit", "--config", "ppo.yaml", "--model.init_args.backbone.path", "other"]
    error, hint = told(fit, capsys)
    assert "made with another base" in error
    assert hint


# -- what is no mistake in the typing -------------------------------------------------------------


def test_a_mistake_found_in_the_middle_of_training_is_one_line_below_the_bar(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlhf_forge.modules.sft import SFTModule

    def fail(*_: object) -> NoReturn:
        raise UserError("somewhere: it is so", hint="do this")

    monkeypatch.setattr(SFTModule, "training_step", fail)
    assert told(FIT, capsys) == ("somewhere: it is so", "do this")


def test_a_full_disk_is_one_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import rlhf_forge.callbacks.artefact_writer as writer

    def full(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device", "adapter.safetensors")

    monkeypatch.setattr(writer, "write_adapter", full)
    error, _ = told(FIT, capsys)
    assert error == "adapter.safetensors: cannot be read or written: No space left on device"
    assert not (project / "lightning_logs/x/sft/artefact").exists()


def test_a_bug_keeps_its_traceback(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlhf_forge.modules.sft import SFTModule

    def fail(*_: object) -> NoReturn:
        raise ZeroDivisionError

    monkeypatch.setattr(SFTModule, "training_step", fail)
    with pytest.raises(ZeroDivisionError):
        main(FIT)


def test_control_c_ends_with_how_to_go_on(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import signal

    from rlhf_forge.modules.sft import SFTModule

    step = SFTModule.training_step

    def interrupt(self: SFTModule, batch: object, batch_idx: int) -> None:
        if batch_idx == 1:
            raise KeyboardInterrupt
        step(self, batch, batch_idx)  # type: ignore[arg-type]

    monkeypatch.setattr(SFTModule, "training_step", interrupt)
    handler = signal.getsignal(signal.SIGINT)
    try:
        assert main([*FIT, "--checkpoint_every", "1"]) == 130
    finally:
        signal.signal(signal.SIGINT, handler)
    err = capsys.readouterr().err
    assert "--ckpt_path last goes on from lightning_logs/x/sft/checkpoints/last.ckpt" in err
    assert err.endswith("stopped\n")
    assert "Traceback" not in err
    assert not Path("lightning_logs/x/sft/artefact").exists()


def test_print_config_shows_every_key_and_runs_nothing(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*FIT, "--print_config"]) == 0
    assert "learning_rate: 0.0002" in capsys.readouterr().out
    assert not (project / "lightning_logs").exists()


def test_the_help_of_a_stage_begins_with_our_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--help"]) == 0
    text = capsys.readouterr().out
    order = [text.index(key) for key in ("--run", "--data.path", "--model", "--trainer.devices")]
    assert order == sorted(order)
    assert "known subclasses" not in text
    assert "--optimizer" not in text
    assert text.startswith("usage: python -m rlhf_forge fit --config FILE")


@pytest.mark.parametrize("seed", ["4294967296", "-1"])
def test_a_seed_that_numpy_would_refuse_is_told(
    seed: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error, _ = told([*FIT, "--seed_everything", seed], capsys)
    assert error == f"seed_everything: must be a whole number from 0 to 2**32 - 1, got {seed}"


def test_a_file_where_the_runs_folder_should_be_is_told(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("lightning_logs").mkdir()
    Path("lightning_logs/x").write_text("a file")
    error, _ = told(FIT, capsys)
    assert "lightning_logs/x: a file, where the run's folder" in error


def test_a_function_of_data_that_fails_is_told(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error, hint = told([*FIT, "--data.path", "os:getcwd"], capsys)
    assert error.startswith("os:getcwd: raised TypeError: ")
    assert "function(seed=..., split=...)" in hint
