"""Predictions and how good they are: metrics, calibration, figures, report."""
