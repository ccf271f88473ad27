"""``inspect-data``: what is wrong with preference data, before anything is trained on it."""

import json as json_library
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_forge.errors import UserError

if TYPE_CHECKING:
    from rlhf_forge.inspection.as_trained import AsTrained
    from rlhf_forge.inspection.findings import Inspection
    from rlhf_forge.inspection.inspect import Settings
    from rlhf_forge.inspection.reading import Wording


def inspect_data(  # noqa: PLR0913 - an argument is an option
    paths: list[str],
    held_out: str | None = None,
    select: str | None = None,
    ignore: str | None = None,
    compare: str | None = None,
    write: str | None = None,
    html: str | None = None,
    json: bool = False,
    config: str | None = None,
    base: str | None = None,
    chat_template: str = "mistral",
    max_length: int | None = None,
    map: dict[str, str] | None = None,
    format: str | None = None,
    reward: str | None = None,
    seed: int = 0,
) -> int:
    """Find duplicates, contradictions, leaks, likely flipped labels and more in preference data.

    Prints findings under stable codes with the lines they stand on. The status is 1 if there are
    errors among them, 0 if there are only warnings. --explain CODE says what a rule means.

    Args:
        paths: Pairs to train on: files, data sets or module:function (their split train).
        held_out: Pairs kept from training; prompts that stand on both sides are errors.
        select: Only these rules: codes or their beginnings, like PREF3,PREF203.
        ignore: All but these rules.
        compare: An older version of the data: say what changed from it.
        write: Write a cleaned copy of the data to this .jsonl, and what went, with the reason, to
            a list beside it; nothing is written over.
        html: Write a page with examples to this file.
        json: Print JSON instead of text.
        config: Config of the run that is to train on it: its tokenizer, template, length and column
            names are taken.
        base: Base whose tokenizer the run uses, where there is no config.
        chat_template: As data.chat_template, with base.
        max_length: Tokens that a side may have, as data.max_length; 1024 by default.
        map: Names of columns: map.prompt=question where the file calls the prompt question.
        format: Name of the format, where several fit.
        reward: Artefact folder of a reward model that judges the labels in place of the cheap one.
        seed: Of what is drawn, and handed to a function.
    """
    from rlhf_forge.inspection.cleaning import require_new, write_clean
    from rlhf_forge.inspection.inspect import inspect
    from rlhf_forge.inspection.reading import Source, Wording

    run = _run_of(config, base, chat_template, max_length)
    wording = Wording(map or run["map"], format or run["format"], seed)
    settings = _settings(select, ignore, wording, run, reward)
    sources = [Source(path) for path in paths]
    everything = [*sources, *([Source(held_out, "validation", held_out=True)] if held_out else [])]
    if write is not None:
        require_new(Path(write))
    found = inspect(everything, settings)
    old = None if compare is None else inspect([Source(compare)], settings)
    _show(found, old, as_json=json)
    if html is not None:
        _write_page(found, Path(html))
    if write is not None:
        gone = write_clean(found, sources, Path(write), seed=seed)
        sys.stderr.write(f"{write}: written, without {gone:,} records\n")
    return 1 if found.count("error") else 0


def _run_of(
    config: str | None, base: str | None, chat_template: str, max_length: int | None
) -> dict[str, Any]:
    """Base, template, length and column names of the run that is to train on the data."""
    run: dict[str, Any] = {"base": base, "chat_template": chat_template, "map": {}, "format": None}
    length: Any = None
    if config is not None:
        from rlhf_forge.config_files import read_config
        from rlhf_forge.presets import find_config

        place = find_config(config)
        try:
            read = read_config(place)
            data = read["data"]
            run["base"] = base or read["model"]["init_args"]["backbone"]["path"]
        except (KeyError, TypeError, UserError) as error:
            why = str(error) if isinstance(error, UserError) else None
            message = f"--config: {config} is no config of a stage with a base"
            raise UserError(message, hint=why) from None
        run |= {key: data[key] for key in ("chat_template", "map", "format") if data.get(key)}
        length = data.get("max_length")
    run["max_length"] = max_length or length or 1024
    return run


def _settings(
    select: str | None,
    ignore: str | None,
    wording: "Wording",
    run: dict[str, Any],
    reward: str | None,
) -> "Settings":
    from rlhf_forge.inspection.inspect import Settings
    from rlhf_forge.inspection.selection import selected

    codes = selected(select, ignore)
    tokens = _as_trained(run)
    if reward is None:
        return Settings(codes, wording, tokens)
    from rlhf_forge.inspection.reward_judge import reward_judge

    return Settings(codes, wording, tokens, reward_judge(Path(reward)), reward)


def _as_trained(run: dict[str, Any]) -> "AsTrained | None":
    if run["base"] is None:
        return None
    from rlhf_forge.data.render import load_template
    from rlhf_forge.inspection.as_trained import AsTrained

    return AsTrained(load_template(run["base"], run["chat_template"]), run["max_length"])


def _show(found: "Inspection", old: "Inspection | None", *, as_json: bool) -> None:
    from rlhf_forge.inspection.comparison import compared, comparison_json, comparison_lines
    from rlhf_forge.inspection.telling import as_json as told
    from rlhf_forge.inspection.telling import lines_of
    from rlhf_forge.pages.escaping import visible

    change = None if old is None else compared(old, found)
    if as_json:
        more = {} if change is None else {"compared": comparison_json(change)}
        sys.stdout.write(json_library.dumps(told(found) | more, indent=1) + "\n")
        return
    for line in [*lines_of(found), *(comparison_lines(change) if change else ())]:
        print(visible(line))


def _write_page(found: "Inspection", path: Path) -> None:
    from rlhf_forge.inspection.as_page import as_page
    from rlhf_forge.pages.page import write_page

    write_page(path, as_page(found))
    sys.stderr.write(f"page: {path}\n")
