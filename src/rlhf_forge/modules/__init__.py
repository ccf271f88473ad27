"""The training stages, one LightningModule each."""
