"""From a few drawn boxes to boxes for the rest: teachers, calibrated scores, decisions."""
