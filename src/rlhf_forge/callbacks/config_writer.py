"""What a run was trained with, for reading and for doing it again."""

from pathlib import Path
from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from typing_extensions import override

from rlhf_forge.callbacks.provenance import write_provenance
from rlhf_forge.run_folder import CONFIG


class ConfigWriter(SaveConfigCallback):
    """Writes ``config.yaml`` and ``provenance.json`` into the stage's folder, for any logger.

    The config is without the checkpoint that the run went on from: a run from it begins at the
    start.
    """

    def __init__(self, parser: Any, config: Any) -> None:
        whole = config.clone()
        whole.ckpt_path = None
        super().__init__(
            parser, whole, config_filename=CONFIG, overwrite=True, save_to_log_dir=False
        )

    @override
    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        path = Path(trainer.default_root_dir) / self.config_filename
        path.parent.mkdir(parents=True, exist_ok=True)
        self.parser.save(self.config, path, skip_none=False, overwrite=True, multifile=False)
        write_provenance(cast("Any", trainer).datamodule, path.parent)
