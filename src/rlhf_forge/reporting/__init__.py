"""What came of a run: read from its folder, as numbers and as one page."""
