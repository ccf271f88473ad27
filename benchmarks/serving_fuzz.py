"""A running server against its own OpenAPI document: schemathesis looks for what it does not name.

    pip install schemathesis==4.32.5
    python benchmarks/serving_fuzz.py --run lightning_logs/quickstart

schemathesis (not a dependency; `--schemathesis` says where it is) makes requests out of the
document, good and bad ones, and checks that no answer is a 5xx and that each has a status and a
shape that the document names. Its bounds are made smaller first: a text may have a million
characters here, and schemathesis, which tries such bounds, then takes 22 GB itself.
"""

import argparse
import json
import os
import subprocess
import time
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from serving import RESULTS, served, write_run
from serving_faults import counted
from work import SIZES

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)
# No check that a body outside the bounds is refused: these are narrower than the server's.
BOUNDS = {"maxLength": 200, "maxItems": 4}
LONGEST_ANSWER = 16


def main() -> None:
    """Start, fuzz, count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="a run's folder")
    parser.add_argument("--size", choices=list(SIZES), help="a random Mistral in place of a run")
    parser.add_argument("--examples", type=int, default=200, help="of each address, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--schemathesis", default="schemathesis")
    parser.add_argument("--json", type=Path, default=RESULTS / "serving-fuzz.json")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        run = arguments.run or write_run(Path(folder), arguments.size)
        feedback = ("--feedback", str(Path(folder) / "feedback.sqlite"))
        with served(run, *feedback) as (port, _):
            url = f"http://127.0.0.1:{port}"
            document = Path(folder) / "openapi.json"
            document.write_text(json.dumps(answerable(narrowed(fetched(f"{url}/openapi.json")))))
            said = fuzz(document, url, arguments)
            statuses = counted(port)
            ready = fetched(f"{url}/health/ready")["status"]
    print(said.stdout)
    row = {
        "served": arguments.size or arguments.run.name,
        "exit_status": said.returncode,
        "cases": [line.strip() for line in said.stdout.splitlines() if " generated, " in line],
        "statuses": statuses,
        "after": ready,
        "examples": arguments.examples,
        "seed": arguments.seed,
        "load": round(os.getloadavg()[0], 1),
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }
    print(json.dumps(row, indent=1))
    arguments.json.write_text(json.dumps(row, indent=1) + "\n")


def fuzz(
    document: Path, url: str, arguments: argparse.Namespace
) -> subprocess.CompletedProcess[str]:
    """Run schemathesis to its end."""
    command = [arguments.schemathesis, "run", str(document), "--url", url]
    command += ["--checks", ",".join(CHECKS), "--phases", "coverage,fuzzing"]
    command += ["--max-examples", str(arguments.examples), "--seed", str(arguments.seed)]
    command += ["--request-timeout", "60"]
    # It leaves a cache in the folder that it is run in.
    return subprocess.run(command, cwd=document.parent, capture_output=True, text=True)


def narrowed(schema: Any) -> Any:
    """The document with smaller bounds, short answers, and users who speak last."""
    if isinstance(schema, list):
        return [narrowed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: narrowed(part) for name, part in schema.items()}
    if inner.get("title") in ("Max Tokens", "Max Completion Tokens"):
        inner["anyOf"][0]["maximum"] = LONGEST_ANSWER
    if inner.get("title") == "Role":
        inner["enum"] = ["user"]
    if inner.get("type") in ("string", "array") and "enum" not in inner and "const" not in inner:
        inner |= {name: min(inner.get(name, most), most) for name, most in _of(inner["type"])}
    return inner


def answerable(document: dict[str, Any]) -> dict[str, Any]:
    """The same with answers to score as single texts, which no schema ties to each other."""
    score = document["components"]["schemas"]["ScoreRequest"]
    text = {"type": "string", "minLength": 1, "maxLength": BOUNDS["maxLength"]}
    score["properties"] = {
        "model": score["properties"]["model"],
        "prompt": text,
        "response": text,
    }
    score["required"] = ["prompt", "response"]
    return document


def _of(kind: str) -> list[tuple[str, int]]:
    name = "maxLength" if kind == "string" else "maxItems"
    return [(name, BOUNDS[name])]


def fetched(url: str) -> Any:
    """JSON from the server."""
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)


if __name__ == "__main__":
    main()
