"""Boxes for images that lack them: seed choice, exchange with labelling tools."""
