"""The model at work: over HTTP, and for a folder in which images appear."""
