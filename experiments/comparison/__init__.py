"""The paper's Tables 1 and 2: classifiers and the detector under one protocol."""
