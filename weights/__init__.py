"""Checkpoints as records: listed, verified, loaded without pickle, converted."""
