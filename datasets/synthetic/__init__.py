"""Synthetic wafer images with boxes taken from the noise-free difference.

``generate_workspace`` (in ``generate``) writes a workspace; ``render_sample`` (in ``render``)
makes one image; ``contact_sheet`` (in ``sheets``) shows many. Only the plan is imported here: the
rest needs OpenCV.
"""

from wafer.datasets.synthetic.plan import PAPER_COUNTS, SampleSpec, class_counts, plan_samples

__all__ = ["PAPER_COUNTS", "SampleSpec", "class_counts", "plan_samples"]
