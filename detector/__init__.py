"""YOLOv5: training with image weights, and the top-1 box of an image."""

import os

# OpenMP reads these once, when torch is first loaded. A thread that spins while it waits makes a
# training several times slower as soon as other work shares the cores; ultralytics would set the
# number of threads to one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count() or 1))
