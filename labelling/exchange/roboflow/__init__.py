"""Roboflow: images and boxes of a model out, exported versions in, a hosted model as teacher."""
