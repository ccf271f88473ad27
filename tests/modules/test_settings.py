"""What would fail in the first step is refused when the config is read."""

from typing import Any

import pytest

from rlhf_forge.modules.settings import (
    ObjectiveSettings,
    OptimizerSettings,
    RolloutSettings,
    UpdateSettings,
)

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("kind", "key", "value", "rule"),
    [
        (OptimizerSettings, "learning_rate", 0.0, "above 0 and finite"),
        (OptimizerSettings, "learning_rate", INF, "above 0 and finite"),
        (OptimizerSettings, "learning_rate", NAN, "above 0 and finite"),
        (OptimizerSettings, "warmup_steps", -1, "0 or more"),
        (OptimizerSettings, "max_grad_norm", 0.0, "above 0"),
        (OptimizerSettings, "eps", -1e-8, "above 0 and finite"),
        (OptimizerSettings, "eps", NAN, "above 0 and finite"),
        (RolloutSettings, "max_new_tokens", 0, "1 or more"),
        (RolloutSettings, "temperature", 0.0, "above 0 and finite"),
        (RolloutSettings, "temperature", INF, "above 0 and finite"),
        (RolloutSettings, "max_rows", 0, "1 or more"),
        (ObjectiveSettings, "kl_coef", -0.1, "0 or more and finite"),
        (ObjectiveSettings, "kl_coef", INF, "0 or more and finite"),
        (ObjectiveSettings, "kl_target", 0.0, "above 0 and finite"),
        (ObjectiveSettings, "kl_target", INF, "above 0 and finite"),
        (ObjectiveSettings, "kl_horizon", 0, "above 0"),
        (ObjectiveSettings, "score_clip", 0.0, "above 0"),
        (ObjectiveSettings, "missing_eos_penalty", -1.0, "0 or more and finite"),
        (ObjectiveSettings, "missing_eos_penalty", INF, "0 or more and finite"),
        (UpdateSettings, "learning_rate", INF, "above 0 and finite"),
        (UpdateSettings, "value_learning_rate", 0.0, "above 0 and finite"),
        (UpdateSettings, "eps", -1.0, "above 0 and finite"),
        (UpdateSettings, "micro_batch_tokens", 0, "1 or more"),
        (UpdateSettings, "clip_range", NAN, "above 0"),
        (UpdateSettings, "gamma", 1.1, "in [0, 1]"),
        (UpdateSettings, "dual_clip", 1.0, "above 1"),
        (UpdateSettings, "value_coef", -1.0, "0 or more"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_key_and_the_rule(
    kind: Any, key: str, value: Any, rule: str
) -> None:
    with pytest.raises(ValueError, match=key) as caught:
        kind(**{key: value})
    assert str(caught.value) == f"{key} must be {rule}, got {value}"


@pytest.mark.parametrize(
    "kind", [OptimizerSettings, RolloutSettings, ObjectiveSettings, UpdateSettings]
)
def test_the_defaults_are_in_range(kind: Any) -> None:
    assert kind() == kind()
