"""The seven trainings of the paper's Table 3, with the published figures beside ours."""
