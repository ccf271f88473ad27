"""A reward model of ours as the judge of labels."""

from collections.abc import Sequence
from pathlib import Path

from rlhf_forge.artefact import Expected, check_fits, read_manifest, reference_of, require_stage
from rlhf_forge.backbone.adapter_files import reads_likelihoods
from rlhf_forge.backbone.config import BackboneConfig, precision_named
from rlhf_forge.backbone.devices import default_device
from rlhf_forge.backbone.loading import content_fingerprint, context_of
from rlhf_forge.data.records import BadRecord, Pair
from rlhf_forge.data.render import load_template
from rlhf_forge.data.tokenize import PairExample, example_of
from rlhf_forge.evaluation.duel import Lineup
from rlhf_forge.evaluation.reward_accuracy import score_pairs
from rlhf_forge.hub import base_folder
from rlhf_forge.inspection.inspect import Judge


def reward_judge(folder: Path) -> Judge:
    """Log-odds of labels by the reward model in an artefact folder; nothing is loaded yet.

    What its base has no room for, or its template refuses, is given 0: it does not know.

    Raises:
        UserError: If there is no such artefact, or its base here is another one.
    """
    manifest = read_manifest(folder)
    require_stage(manifest, folder, "reward")
    template = load_template(str(folder), "tokenizer")
    fingerprint = content_fingerprint(base_folder(manifest.base))
    check_fits(manifest, Expected(fingerprint, template.tokenizer_hash, template.hash), folder)
    adapters: dict[str, Path | None] = {"reward": folder}
    if reads_likelihoods(folder):
        adapters["reference"] = reference_of(folder)
    base = BackboneConfig(manifest.base, precision_named(manifest.precision))
    lineup = Lineup(base, template, adapters)
    context = context_of(base.path)

    def judge(pairs: Sequence[Pair]) -> list[float]:
        leads = [0.0] * len(pairs)
        examples: dict[int, PairExample] = {}
        for number, pair in enumerate(pairs):
            try:
                example = example_of(pair, template, kind="pairs", max_length=context)
            except BadRecord:
                continue
            assert isinstance(example, PairExample)
            examples[number] = example
        scores = score_pairs(lineup.load(default_device()), "reward", list(examples.values()))
        for number, ours, theirs in zip(examples, scores.first, scores.second, strict=True):
            # Scores are in units of their spread, the odds of Bradley and Terry in raw ones.
            leads[number] = manifest.reward_std * (ours - theirs)
        return leads

    return judge
