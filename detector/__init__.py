"""YOLOv5: training with image weights, and the top-1 box of an image."""
