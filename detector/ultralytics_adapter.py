"""The only module that imports ultralytics, silenced and fenced in before the import.

Measured on ultralytics 8.4: without these settings its first import writes a settings file that
names the current folder's ``datasets`` and ``weights`` as download folders, reports each training
to an analytics host, installs packages at run time, and loads ``.pt`` files as full pickles. On a
GPU it downloads a model to try mixed precision with, whatever the settings say.
"""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path

from wafer.datasets.errors import WaferError
from wafer.datasets.files import cache_folder, write_bytes, write_text

CONFIG = cache_folder() / "ultralytics"
FONTS = ("Arial.ttf", "Arial.Unicode.ttf")
"""The fonts of ultralytics' pictures; it takes the second where a class name is not ASCII."""
FAULTY_GPUS = re.compile(
    r"(nvidia|geforce|quadro|tesla).*?(1660|1650|1630|t400|t550|t600|t1000|t1200|t2000|k40m)",
    re.IGNORECASE,
)
"""GPUs on which mixed precision gives NaN; ultralytics has the list inside its ``check_amp``."""

os.environ.update(
    {
        "YOLO_OFFLINE": "1",
        "YOLO_AUTOINSTALL": "false",
        "YOLO_VERBOSE": "false",
        "YOLO_CONFIG_DIR": str(CONFIG),
        "ULTRALYTICS_SAFE_LOAD": "1",
        "ULTRALYTICS_API_KEY": "",
    }
)


def _prepare_config(folder: Path) -> None:
    """Write the settings and the fonts that ultralytics would otherwise create or download."""
    settings = folder / "Ultralytics" / "settings.json"
    wanted = {
        "settings_version": "0.0.8",
        "datasets_dir": str(folder / "datasets"),
        "weights_dir": str(folder / "weights"),
        "runs_dir": str(folder / "runs"),
        "uuid": "",
        "sync": False,
        "api_key": "",
        "openai_api_key": "",
        **dict.fromkeys(("clearml", "comet", "dvc", "mlflow", "raytune"), False),
        **dict.fromkeys(("tensorboard", "wandb", "vscode_msg", "openvino_msg"), False),
    }
    text = json.dumps(wanted, indent=2)
    if not settings.is_file() or settings.read_text(encoding="utf-8") != text:
        write_text(settings, text)
    for font in map(settings.with_name, FONTS):
        if not font.is_file():
            import matplotlib as mpl

            free_font = Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
            write_bytes(font, free_font.read_bytes())


try:
    _prepare_config(CONFIG)
except OSError as error:
    raise WaferError(
        f"{CONFIG}: {error.strerror}; wafer needs a folder for what it remembers: name one that "
        "can be written to with the environment variable XDG_CACHE_HOME"
    ) from error

import torch  # noqa: E402, TID253
import ultralytics  # noqa: E402, TID253
from ultralytics.cfg import get_cfg  # noqa: E402, TID253
from ultralytics.data import augment  # noqa: E402, TID253
from ultralytics.data.dataset import YOLODataset  # noqa: E402, TID253
from ultralytics.engine import trainer as engine  # noqa: E402, TID253
from ultralytics.models.yolo.detect import DetectionTrainer, DetectionValidator  # noqa: E402, TID253
from ultralytics.nn.tasks import DetectionModel  # noqa: E402, TID253
from ultralytics.utils import LOGGER, RANK, WORLD_SIZE  # noqa: E402, TID253
from ultralytics.utils.nms import non_max_suppression  # noqa: E402, TID253
from ultralytics.utils.torch_utils import ModelEMA, unwrap_model  # noqa: E402, TID253

__all__ = [
    "RANK",
    "VERSION",
    "WORLD_SIZE",
    "DetectionModel",
    "DetectionTrainer",
    "DetectionValidator",
    "ModelEMA",
    "YOLODataset",
    "augment",
    "get_cfg",
    "non_max_suppression",
    "unwrap_model",
]

VERSION: str = ultralytics.__version__
LOGGER.setLevel(logging.ERROR)  # our own progress line and tables say what the user needs


def _trusts_amp(model: torch.nn.Module) -> bool:
    """Return whether to train a model in mixed precision on the device that it is on."""
    device = next(model.parameters()).device
    return device.type == "cuda" and not FAULTY_GPUS.search(torch.cuda.get_device_name(device))


# ultralytics' own would download a model to try it with: the answer hung on the network.
engine.check_amp = _trusts_amp
