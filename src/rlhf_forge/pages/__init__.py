"""HTML pages and SVG charts that need no network and no script; whatever they show is escaped."""
