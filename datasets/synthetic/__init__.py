"""Synthetic wafer images with boxes taken from the noise-free difference."""
