"""From image files to rows of predictions, whatever model answers."""
