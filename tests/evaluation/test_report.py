"""Figures and the report: what they show, and that nothing in them can run or be fetched."""

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.records import Annotation, Box, Sample
from wafer.evaluation import figures
from wafer.evaluation.records import Detection, Prediction
from wafer.evaluation.report import write_report
from wafer.evaluation.results import Evaluation, evaluate

EVIL = "<script>alert('$\\x$')</script>"  # matplotlib would take $\x$ for a formula, a wrong one
CLASSES = ClassTable(
    (
        DefectClass(0, "clean", "none"),
        DefectClass(1, EVIL, killer=True),
        DefectClass(2, "$unclosed & 刮痕"),
        DefectClass(3, "deviation", "whole_image"),
    )
)
DUST = CLASSES.names[2]
BOX, OTHER, FRAME = Box(10, 20, 30, 50), Box(60, 60, 70, 70), Box(0, 0, 100, 80)
FIGURES = [
    *("classes.png", "confusion_detection.png", "confusion_top1.png"),
    *("reliability.png", "risk_coverage.png", "truth_and_prediction.png"),
]

Material = tuple[list[Sample], list[Prediction], list[Detection] | None]


def load(image: str) -> np.ndarray:
    pixels = np.arange(80 * 100, dtype=np.uint8).reshape(80, 100)
    return np.dstack([pixels] * 3) if "colour" in image else pixels


def material() -> Material:
    samples = [
        Sample('lot"><img src=x onerror=alert(1)>/a.png', EVIL, (Annotation(BOX, EVIL),)),
        Sample("colour/b.png", DUST, (Annotation(OTHER, DUST), Annotation(BOX, DUST))),
        Sample("c.png", "deviation", (Annotation(FRAME, "deviation"),)),
        Sample("d.png", "clean", ()),
        Sample("e.png", "clean", ()),
    ]
    answers = [
        (DUST, 0.7, BOX),
        (EVIL, 0.9, OTHER),
        ("deviation", 1.0, FRAME),
        ("clean", 0.8, None),
    ]
    predictions = [
        *(
            Prediction(sample.image, box, name, confidence, "auto")
            for sample, (name, confidence, box) in zip(samples, answers, strict=False)
        ),
        Prediction("e.png", None, "clean", 0.55, "review", "killer escape limit"),
    ]
    detections = [
        Detection(p.image, p.box, p.class_name, p.confidence)
        for p in predictions
        if p.box is not None
    ]
    return samples, predictions, [*detections, Detection(samples[0].image, OTHER, EVIL, 0.3)]


def run(made: Material, *, split: str = "test") -> Evaluation:
    samples, predictions, detections = made
    return evaluate(
        samples,
        predictions,
        classes=CLASSES,
        detections=detections,
        sizes={sample.image: (100, 80) for sample in samples},
        model=f"yolov5n {EVIL}",
        dataset_hash="ab" * 32,
        split=split,
        excluded={},
    )


def write(folder: Path, made: Material, *, split: str = "test") -> str:
    samples, predictions, detections = made
    path = write_report(
        folder,
        run(made, split=split),
        load_image=load,
        samples=samples,
        predictions=predictions,
        detections=detections,
        title=f"Report {EVIL}",
    )
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a report that the tests only read."""
    made = tmp_path_factory.mktemp("report") / "new" / "folder"
    write(made, material())
    return made


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    """Collects tags and checks that they nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.slow
def test_the_folder_holds_metrics_figures_and_page(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*FIGURES, "metrics.json", "report.html"]
    )
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics == run(material()).to_dict()
    assert metrics["accuracy"] == 0.6
    for name in FIGURES:
        with Image.open(folder / name) as picture:
            picture.load()
            assert min(picture.size) > 250


def test_names_are_text_and_never_markup(text: str) -> None:
    page = Page(text)
    assert page.open == []
    tags = {tag for tag, _ in page.tags}
    assert "script" not in tags
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "&lt;script&gt;alert(&#39;$\\x$&#39;)&lt;/script&gt;" in text
    assert "刮痕" in text


def test_the_page_needs_nothing_but_itself(text: str) -> None:
    links = [
        value
        for _, attributes in Page(text).tags
        for name, value in attributes.items()
        if name in {"src", "href", "xlink:href", "srcset", "data", "action"}
    ]
    assert len(links) == 2 * 2 + 5  # two mistakes, each whole and close up; five figures
    assert all((link or "").startswith(("data:image/", "#m")) for link in links)
    without_pixels = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"https?:|//[a-z]|url\(|@import", without_pixels)
    assert "default-src 'none'" in text


def test_the_mistakes_are_shown_surest_first_with_their_boxes(text: str) -> None:
    cards = text.split('<div class="mistake">')[1:]
    assert len(cards) == 2
    assert [re.findall(r"</span> (\d\.\d\d)</div>", card) for card in cards] == [["0.90"], ["0.70"]]
    assert "killer</span>" in cards[1]
    truth = '<rect class="t" x="10" y="20" width="20" height="30"/>'
    answer = '<rect class="a" x="10" y="20" width="20" height="30"/>'
    assert cards[1].count(truth) == cards[1].count(answer) == 2  # whole and close up
    assert cards[1].count('<rect class="o" x="60" y="60" width="10" height="10"/>') == 2
    assert 'viewBox="0 0 100 80"' in cards[1]
    # 1.6 times the longer side of 30, around the centre (20, 35), moved into the image
    assert 'viewBox="0 11.0 48.0 48.0"' in cards[1]


@pytest.mark.slow
def test_training_images_are_said_to_be_among_them(tmp_path: Path, text: str) -> None:
    label = "optimistic: includes training images"
    assert label not in text
    assert label in write(tmp_path, material(), split="all")


@pytest.mark.slow
def test_the_same_evaluation_gives_the_same_bytes(tmp_path: Path, text: str) -> None:
    assert write(tmp_path, material()) == text


@pytest.mark.slow
def test_a_figure_that_no_longer_applies_is_removed(tmp_path: Path) -> None:
    samples, predictions, detections = material()
    write(tmp_path, (samples, predictions, detections))
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    text = write(tmp_path, (samples, predictions, None))
    assert not (tmp_path / "confusion_detection.png").exists()
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert "mAP50" not in text


@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 1])
def test_a_report_on_next_to_nothing(tmp_path: Path, count: int) -> None:
    samples, predictions, _ = material()
    text = write(tmp_path, (samples[-count:] if count else [], predictions[-1:] * count, []))
    assert Page(text).open == []
    assert "There are none" in text
    assert (tmp_path / "truth_and_prediction.png").exists() is bool(count)


@pytest.mark.slow
def test_few_images_are_read_of_many(tmp_path: Path) -> None:
    samples = [Sample(f"{i}.png", CLASSES.names[i % 2]) for i in range(300)]
    predictions = [Prediction(s.image, None, "clean", 0.5, "auto") for s in samples]
    read: list[str] = []

    def counting(image: str) -> np.ndarray:
        read.append(image)
        return load(image)

    write_report(
        tmp_path,
        run((samples, predictions, None)),
        load_image=counting,
        samples=samples,
        predictions=predictions,
        detections=None,
        title="many",
    )
    assert len(read) == 24


@pytest.mark.slow
def test_every_class_is_among_the_truths_beside_answers(tmp_path: Path) -> None:
    names = [f"class{i:02d}" for i in range(15)]
    classes = ClassTable(tuple(DefectClass(i, name) for i, name in enumerate(names)))
    samples = [Sample(f"{name}-{copy}.png", name) for name in names for copy in "ab"]
    predictions = [Prediction(s.image, None, str(s.image_class), 0.9, "auto") for s in samples]
    read: list[str] = []

    def noting(image: str) -> np.ndarray:
        read.append(image)
        return load(image)

    evaluation = evaluate(
        samples,
        predictions,
        classes=classes,
        detections=None,
        sizes={},
        model="m",
        dataset_hash="ab" * 32,
        split="test",
        excluded={},
    )
    write_report(
        tmp_path,
        evaluation,
        load_image=noting,
        samples=samples,
        predictions=predictions,
        detections=None,
        title="many classes",
    )
    assert sorted(image[:7] for image in read) == names


@pytest.mark.slow
def test_names_that_are_not_unicode_do_not_stop_the_report(tmp_path: Path) -> None:
    sample = Sample("caf\udce9.png", DUST, ())
    prediction = Prediction(sample.image, None, "clean", 0.5, "auto")
    assert "caf\\udce9.png" in write(tmp_path, ([sample], [prediction], []))


def test_a_report_that_fails_leaves_no_page(tmp_path: Path) -> None:
    samples, predictions, detections = material()

    def broken(image: str) -> np.ndarray:
        raise OSError(f"{image} is gone")

    with pytest.raises(OSError, match="is gone"):
        write_report(
            tmp_path,
            run((samples, predictions, detections)),
            load_image=broken,
            samples=samples,
            predictions=predictions,
            detections=detections,
            title="broken",
        )
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def texts(figure: figures.Figure) -> list[str]:
    figures.png_bytes(figure)
    (axes,) = figure.axes
    return [text.get_text() for text in axes.texts]


def test_the_confusion_figures_print_counts_and_shares() -> None:
    evaluation = run(material())
    assert texts(figures.top_one_confusion_figure(evaluation)) == [
        "2\n100%",
        "1\n100%",
        "1\n100%",
        "1\n100%",
    ]
    detection = figures.detection_confusion_figure(evaluation)
    assert detection is not None
    # truth evil found as dust; of two dust boxes one found as evil, one missed; a false alarm
    assert texts(detection) == ["1\n100%", "1\n50%", "1\n50%", "1\n100%", "1\n100%"]
    (axes,) = detection.axes
    assert [label.get_text() for label in axes.get_yticklabels()][-1] == "background (1)"


def test_a_model_without_boxes_has_no_confusion_of_boxes() -> None:
    samples, predictions, _ = material()
    assert figures.detection_confusion_figure(run((samples, predictions, None))) is None


def test_right_is_blue_and_wrong_is_orange() -> None:
    (axes,) = figures.top_one_confusion_figure(run(material())).axes
    (picture,) = axes.images
    colours = np.asarray(picture.get_array())
    assert colours[0, 0] == pytest.approx([0, 0x72 / 255, 0xB2 / 255])
    assert colours[1, 2] == pytest.approx([0xD5 / 255, 0x5E / 255, 0])
    assert colours[1, 1] == pytest.approx([1, 1, 1])


def test_the_curves_show_the_figures_of_the_evaluation() -> None:
    evaluation = run(material())
    (reliability,) = figures.reliability_figure(evaluation).axes
    points = np.asarray(reliability.collections[0].get_offsets())
    assert points == pytest.approx(np.array([[b.confidence, b.accuracy] for b in evaluation.bins]))
    (risk,) = figures.risk_coverage_figure(evaluation).axes
    assert evaluation.accuracy is not None
    assert risk.lines[0].get_xydata()[-1] == pytest.approx([1, 1 - evaluation.accuracy])


def test_the_sheet_draws_boxes_where_they_are() -> None:
    samples, predictions, _ = material()
    sheet = figures.comparison_figure(
        list(zip(samples, predictions, strict=True)),
        truths=[str(sample.image_class) for sample in samples],
        load_image=load,
    )
    left, right = sheet.axes[0], sheet.axes[1]
    assert [patch.get_bbox().bounds for patch in left.patches] == [(9.5, 19.5, 20, 30)] * 2
    assert right.patches[-1].get_linestyle() == "--"
    assert [axes.get_title(loc="left") for axes in sheet.axes[8:10]] == [
        "clean",
        "clean\n0.55, review",
    ]
    assert right.get_title(loc="left").startswith("wrong: ")
    with Image.open(io.BytesIO(figures.png_bytes(sheet))) as picture:
        assert picture.format == "PNG"
