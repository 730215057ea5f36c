"""Classifier heads: one class for the whole image, without a box."""

from wafer.inference.cores import settle_openmp

settle_openmp()
