"""YOLOv5: training with image weights, and the top-1 box of an image."""

import os

from wafer.datasets.files import cache_folder
from wafer.inference.cores import settle_openmp

settle_openmp()
# matplotlib would make a folder in the user's configuration.
os.environ.setdefault("MPLCONFIGDIR", str(cache_folder() / "matplotlib"))
