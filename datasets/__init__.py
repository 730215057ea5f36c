"""What is on disk: classes, samples, workspaces, formats, splits, images, synthetic data."""

from wafer.datasets.classes import ClassTable, DefectClass, paper_classes, read_classes
from wafer.datasets.errors import (
    DataError,
    ExchangeError,
    Fault,
    ImageError,
    TrainingError,
    WaferError,
    WeightsError,
    WorkspaceError,
)
from wafer.datasets.records import Annotation, Box, Sample

__all__ = [
    "Annotation",
    "Box",
    "ClassTable",
    "DataError",
    "DefectClass",
    "ExchangeError",
    "Fault",
    "ImageError",
    "Sample",
    "TrainingError",
    "WaferError",
    "WeightsError",
    "WorkspaceError",
    "paper_classes",
    "read_classes",
]
