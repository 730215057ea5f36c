"""Evolving the hyperparameters of a training: candidates, trials, the outcome."""
