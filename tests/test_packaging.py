import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROBE = """
from pathlib import Path
import rlhf_forge
from rlhf_forge.hub import base_folder
from rlhf_forge.presets import find_config, find_config_folder
from importlib.resources import files
assert "wheel" in rlhf_forge.__file__, rlhf_forge.__file__
assert (base_folder("package:toy_world/base") / "model.safetensors").is_file()
assert find_config("quickstart/sft.yaml").is_file()
assert find_config("ppo.yaml").is_file()
assert find_config_folder("configs/quickstart").is_dir()
# Links in the project, files in the wheel.
shared = (find_config(f"{folder}/sft.yaml") for folder in ("quickstart", "quickstart-compare"))
assert len({path.read_text() for path in shared}) == 1
assert files("rlhf_forge.data").joinpath("templates", "mistral.jinja").is_file()
assert files("rlhf_forge.pages").joinpath("templates", "page.css").is_file()
"""


@pytest.mark.slow
def test_the_wheel_is_pure_and_works_from_any_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("py3-none-any.whl")
    unpacked = tmp_path / "wheel"
    zipfile.ZipFile(wheel).extractall(unpacked)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run(
        [sys.executable, "-c", PROBE], cwd=elsewhere, env={"PYTHONPATH": str(unpacked)}, check=True
    )


def test_the_project_around_the_editable_install_has_the_same_files() -> None:
    from rlhf_forge.hub import base_folder
    from rlhf_forge.presets import find_config

    assert (base_folder("package:toy_world/base") / "model.safetensors").is_file()
    assert find_config("quickstart/sft.yaml").is_file()
