"""Whole pipelines made of the other rooms."""
