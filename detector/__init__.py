"""YOLOv5: training with image weights, and the top-1 box of an image."""

import os

from wafer.datasets.files import cache_folder

# OpenMP reads these once, when torch is first loaded. Threads that wait by spinning for long, the
# default, make a training several times slower as soon as other work shares the cores; threads
# that do not spin at all lose half of the speed on small images. ultralytics would set the number
# of threads to one.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")
os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count() or 1))
# matplotlib would make a folder in the user's configuration.
os.environ.setdefault("MPLCONFIGDIR", str(cache_folder() / "matplotlib"))
