"""From files to a CSV, with a small predictor that measures brightness instead of a network."""

import csv
import errno
import hashlib
import io
import json
import os
import resource
import shutil
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
from numpy.typing import NDArray
from PIL import Image

from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.errors import DataError, WaferError, WeightsError
from wafer.evaluation.calibration import PlattMap, decide
from wafer.inference import output, unfinished
from wafer.inference.output import (
    COLUMNS,
    Classify,
    Progress,
    Summary,
    classify_to_file,
    columns_wanted,
)
from wafer.inference.parquet import to_parquet
from wafer.inference.pipeline import classify
from wafer.inference.records import Predictor, Row, TopOne
from wafer.inference.sources import ImageInput

CLASSES = ClassTable(
    (
        DefectClass(0, "none", "none"),
        DefectClass(20, "scratch", "box"),
        DefectClass(30, "deviation", "whole_image"),
    )
)
HEADER = "image,xmin,ymin,xmax,ymax,class,confidence,decision,reason,error,class_code,sha256,model"


class Brightness:
    """Finds the left half of an image; its scores are the brightness of the two halves."""

    def infer(self, images: NDArray[np.uint8], /) -> TopOne:
        size = images.shape[1]
        halves = np.stack(
            [images[:, :, : size // 2].mean((1, 2)), images[:, :, size // 2 :].mean((1, 2))], axis=1
        )
        scores = np.asarray(halves / 255, np.float32)
        boxes = np.tile(np.array([0, 0, size / 2, size], np.float32), (len(images), 1))
        return TopOne(boxes, scores.argmax(axis=1), scores)

    def close(self) -> None:
        pass


PREDICTOR = Predictor(
    model="brightness-1",
    engine=Brightness(),
    classes=CLASSES,
    decide=partial(
        decide, platt=PlattMap(slope=1.0, intercept=0.0), none_class="none", none_review_above=0.4
    ),
    image_size=32,
    colour=False,
    white_level=65535,
)


def png(left: int, right: int, *, width: int = 64, height: int = 64) -> bytes:
    pixels = np.full((height, width), left, np.uint8)
    pixels[:, width // 2 :] = right
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def jpeg() -> bytes:
    data = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(data, "JPEG")
    return data.getvalue()


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    return folder


def run(
    *arguments: Path | str,
    output: str = "out.csv",
    predictor: Predictor = PREDICTOR,
    classifier: Classify | None = None,
    batch: int = 16,
    threads: int | None = None,
    where: Sequence[str] = (),
    force: bool = False,
    progress: Progress | None = None,
) -> Summary:
    found = classifier or partial(classify, predictor=predictor, batch=batch, threads=threads)
    return classify_to_file(
        arguments,
        found,
        Path(output),
        model="m",
        batch=batch,
        where=columns_wanted(where),
        force=force,
        progress=progress,
    )


def read(output: str = "out.csv") -> list[dict[str, str]]:
    with Path(output).open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def test_the_bytes_of_a_csv(images: Path) -> None:
    digests = {}
    for name, left, right in [("a", 204, 51), ("b", 51, 204), ("c", 51, 0), ("d", 115, 0)]:
        content = png(left, right, width=128)
        (images / f"{name}.png").write_bytes(content)
        digests[name] = hashlib.sha256(content).hexdigest()
    summary = run("images")
    # 128 x 64 pixels become 32 x 16 with 8 rows of grey 114 above and below.
    assert Path("out.csv").read_bytes().decode() == "\n".join(
        [
            HEADER,
            f"a.png,0.00,0.00,64.00,64.00,scratch,0.623529,auto,,,20,{digests['a']},brightness-1",
            f"b.png,0.00,0.00,128.00,64.00,deviation,0.623529,auto,,,30,{digests['b']},brightness-1",
            f"c.png,,,,,none,0.676471,auto,,,0,{digests['c']},brightness-1",
            f"d.png,,,,,none,0.550980,review,killer escape limit,,0,{digests['d']},brightness-1",
            "",
        ]
    )
    assert (summary.rows, summary.errors, summary.review) == (4, 0, 1)
    assert summary.images_per_second == pytest.approx(4 / summary.seconds)


def test_json_lines_hold_the_same(images: Path) -> None:
    (images / "a.png").write_bytes(png(204, 51))
    (images / "c,ü\n.png").write_bytes(png(0, 0))
    (images / "x.png").write_bytes(b"")
    run("images", output="out.jsonl")
    rows = [json.loads(line) for line in Path("out.jsonl").read_text("utf-8").splitlines()]
    assert [tuple(row) for row in rows] == [COLUMNS] * 3
    assert [rows[0][key] for key in COLUMNS[:8]] == [
        *("a.png", 0.0, 0.0, 32.0, 64.0, "scratch"),
        *(0.8, "auto"),
    ]
    assert [rows[1][key] for key in COLUMNS[:8]] == [
        *("c,ü\n.png", None, None, None, None, "none"),
        *(0.9999, "auto"),
    ]
    assert rows[2]["error"] == "an empty file (0 bytes)"
    assert rows[2]["class"] is None and rows[2]["class_code"] is None


def parquet_of(folder: Path, **options: Any) -> Path:
    run("images", output=str(folder / "out.parquet"), **options)
    return folder / "out.parquet"


def test_parquet_holds_what_json_lines_do_with_types(images: Path, tmp_path: Path) -> None:
    broken_files(images)
    for name in ("a.png", "=1.png", 'q",\n.png', "ウエハ.png"):
        (images / name).write_bytes(png(204, 51))
    (images / "b.png").write_bytes(png(0, 0))
    run("images", output="out.jsonl")
    lines = Path("out.jsonl").read_text("utf-8").splitlines()
    table = parquet.read_table(parquet_of(tmp_path))
    assert table.to_pylist() == [json.loads(line) for line in lines]
    assert table.column_names == list(COLUMNS)
    assert {name: str(table.schema.field(name).type) for name in COLUMNS} == {
        **dict.fromkeys(COLUMNS, "large_string"),
        **dict.fromkeys(("xmin", "ymin", "xmax", "ymax", "confidence"), "double"),
        "class_code": "int64",
    }
    (tmp_path / "other [1]").mkdir()
    again = parquet_of(tmp_path / "other [1]", threads=1)
    assert again.read_bytes() == (tmp_path / "out.parquet").read_bytes()
    assert [p.name for p in tmp_path.iterdir() if p.name[0] == "."] == []
    none = parquet.read_table(parquet_of(tmp_path, where=["class=gone"], force=True))
    assert none.num_rows == 0
    assert none.schema == table.schema


def test_a_disk_that_is_full_at_its_end_is_an_error_and_the_rows_are_kept(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfinished, "PIECE_SECONDS", 0.0)
    random = np.random.default_rng(0)
    names = [random.bytes(40).hex() for _ in range(2000)]
    (images / "list.txt").write_text("\n".join(names))

    def short_errors(inputs: Iterable[ImageInput]) -> Generator[Row, None, None]:
        for item in inputs:
            yield Row(image=item.name, model="m", error="e")

    def limited(rows: Path, columns: Mapping[str, type]) -> Path:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
        return to_parquet(rows, columns)

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patch:
        patch.setattr(output, "to_parquet", limited)
        try:
            with pytest.raises(WaferError, match=r"out\.parquet cannot be written"):
                run("images/list.txt", output="out.parquet", classifier=short_errors)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not Path("out.parquet").exists()
    assert run("images/list.txt", output="out.parquet", classifier=short_errors).before == 2000
    assert parquet.read_table("out.parquet")["image"].to_pylist() == names
    assert sorted(path.name for path in Path().iterdir()) == ["images", "out.parquet"]


def given_on_stdin(monkeypatch: pytest.MonkeyPatch, lines: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines)))


def test_a_list_on_standard_input_is_relative_to_the_current_folder(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        (images / name).write_bytes(png(204, 51))
    given_on_stdin(monkeypatch, b"images/b.png\r\n\nimages/\xff.png\nimages/a.png")
    seen: list[tuple[int, int | None]] = []
    run("images/c.png", "-", progress=lambda done, total: seen.append((done, total)))
    assert [row["image"] for row in read()] == [
        *("images/c.png", "images/b.png", "images/\\xff.png", "images/a.png")
    ]
    assert [row["class"] for row in read()] == ["scratch", "scratch", "", "scratch"]
    assert seen[-1] == (4, 4)
    given_on_stdin(monkeypatch, b"\n\n")
    with pytest.raises(DataError, match="-: no path on standard input; write one image path"):
        run("-", output="other.csv")


def test_a_list_on_standard_input_is_gone_on_with_and_another_one_is_noticed(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfinished, "PIECE_SECONDS", 0.0)
    names = [f"images/{number}.png" for number in range(40)]
    for name in names:
        Path(name).write_bytes(png(204, 51))

    def stopping(inputs: Iterable[ImageInput]) -> Generator[Row, None, None]:
        for number, row in enumerate(classify(inputs, PREDICTOR, batch=4)):
            if number == 30:
                raise KeyboardInterrupt
            yield row

    def gone_on(given: list[str]) -> int:
        given_on_stdin(monkeypatch, "\n".join(names).encode())
        with pytest.raises(KeyboardInterrupt):
            run("-", classifier=stopping, batch=4, force=True)
        given_on_stdin(monkeypatch, "\n".join(given).encode())
        before = run("-", batch=4, force=True).before
        assert [row["image"] for row in read()] == given
        return before

    assert gone_on(names) == 28
    assert gone_on([*names[:10], *names[11:]]) == 8
    assert gone_on(names[::-1]) == 0


def broken_files(folder: Path) -> dict[str, str]:
    """Make one file of each kind that must not be classified; returns its error by name."""
    (folder / "zero.png").write_bytes(b"")
    (folder / "text.jpg").write_text("not an image")
    whole = jpeg()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "cut.png").write_bytes(png(9, 9)[:-20])
    (folder / "folder.png").mkdir()
    (folder / "dangling.png").symlink_to("nowhere")
    (folder / "loop.png").symlink_to("loop.png")
    os.mkfifo(folder / "pipe.png")
    (folder.parent / "outside.png").write_bytes(png(9, 9))
    (folder / "outside.png").symlink_to("../outside.png")
    (folder / "inside.png").symlink_to("zero.png")
    frames = [Image.new("L", (8, 8), level) for level in (0, 99)]
    frames[0].save(folder / "gif.png", "GIF", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "animated.png", save_all=True, append_images=frames[1:])
    Image.new("CMYK", (8, 8)).save(folder / "cmyk.jpg")
    header = b"IHDR" + struct.pack(">II", 30_000, 30_000) + b"\x08\x00\x00\x00\x00"
    bomb = png(9, 9)
    checked = header + struct.pack(">I", zlib.crc32(header))
    (folder / "bomb.png").write_bytes(bomb[:12] + checked + bomb[33:])
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.png")).write_bytes(png(9, 9))
    return {
        "zero.png": "an empty file (0 bytes)",
        "text.jpg": "not a PNG, JPEG, TIFF or BMP image",
        "cut.jpg": "cut off",
        "cut.png": "cut off",
        "folder.png": "a folder, not a file",
        "dangling.png": "cannot be read (No such file or directory)",
        "loop.png": "cannot be read (Too many levels of symbolic links)",
        "pipe.png": "not a regular file",
        "outside.png": "a link to a file outside the folder; name that file, or its folder",
        "inside.png": "an empty file (0 bytes)",
        "gif.png": "not a PNG, JPEG, TIFF or BMP image",
        "animated.png": "2 images in one file; save each in a file of its own",
        "cmyk.jpg": "pixels of kind CMYK; save it as 8- or 16-bit grey or RGB",
        "bomb.png": "30000 x 30000 pixels, more than the limit 100,000,000",
        "\\xff\\xfe.png": "a file name that is not UTF-8; rename the file",
    }


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_a_broken_file_is_a_row_and_nothing_else_is_lost(images: Path, batch: int) -> None:
    expected = broken_files(images)
    for number in range(20):
        (images / f"good{number:02d}.png").write_bytes(png(204, 51))
    summary = run("images", batch=batch)
    rows = {row["image"]: row for row in read()}
    assert summary.rows == 20 + len(expected) == len(rows)
    assert summary.errors == len(expected)
    for name, error in expected.items():
        assert error in rows[name]["error"]
        assert str(images) not in rows[name]["error"]
        assert [rows[name][column] for column in COLUMNS[1:9]] == [""] * 8
    assert {rows[f"good{n:02d}.png"]["class"] for n in range(20)} == {"scratch"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission_is_a_row(images: Path) -> None:
    (images / "a.png").write_bytes(png(9, 9))
    (images / "a.png").chmod(0)
    assert run("images").errors == 1
    assert read()[0]["error"] == "cannot be read (Permission denied)"


def test_missing_files_and_odd_lines_of_a_list_are_rows(images: Path) -> None:
    (images / "a.png").write_bytes(png(204, 51))
    lines = [b"a.png", b"gone.png", b"a\0.png", b"x" * 5000, b"\xff.png", b"."]
    (images / "list.txt").write_bytes(b"\n".join(lines))
    run("images/list.txt", "images/gone.jpg")
    rows = read()
    assert [row["error"].partition(" (")[0] for row in rows] == [
        "",
        "cannot be read",
        "not a file name",
        "cannot be read",
        "a file name that is not UTF-8; rename the file",
        "a folder, not a file",
        "cannot be read",
    ]
    assert rows[6]["image"] == "images/gone.jpg"


NAMES = {
    "=1+1.png": "./=1+1.png",
    "+x.png": "./+x.png",
    "-x.png": "./-x.png",
    "@x.png": "./@x.png",
    "\tx.png": "./\tx.png",
    "a,b.png": "a,b.png",
    'q"q.png': 'q"q.png',
    "new\nline.png": "new\nline.png",
    "carriage\rreturn.png": "carriage\rreturn.png",
    "sp ace.png": "sp ace.png",
    "ウエハ-é.png": "ウエハ-é.png",
}


def test_names_come_back_from_the_csv(images: Path) -> None:
    for name in NAMES:
        (images / name).write_bytes(png(204, 51))
    run("images")
    rows = read()
    assert [row["image"] for row in rows] == [NAMES[name] for name in sorted(NAMES)]
    assert all((images / row["image"]).is_file() for row in rows)
    assert {row["class"] for row in rows} == {"scratch"}


@pytest.mark.slow
def test_order_is_kept_whatever_decoding_takes(images: Path) -> None:
    sides = np.random.default_rng(1).permutation(np.tile([8, 1500], 40))
    for number, side in enumerate(sides):
        (images / f"{number:03d}.png").write_bytes(png(204, 51, width=side, height=side))
    inputs = [ImageInput(path, path.name) for path in sorted(images.iterdir())]
    for threads, batch in [(1, 16), (8, 5)]:
        rows = list(classify(inputs, PREDICTOR, threads=threads, batch=batch))
        assert [row.image for row in rows] == [item.name for item in inputs]
        boxes = [row.prediction.box for row in rows if row.prediction]
        assert [box.ymax for box in boxes if box] == sides.tolist()


def test_a_rerun_is_byte_identical(images: Path) -> None:
    broken_files(images)
    for number in range(50):
        (images / f"{number}.png").write_bytes(png(number * 5, 250 - number * 5))
    run("images", threads=1)
    first = Path("out.csv").read_bytes()
    run("images", threads=7, force=True)
    assert Path("out.csv").read_bytes() == first


def peak_memory(images: Path, name: str, number: int) -> int:
    (images / "list.txt").write_text(f"{name}\n" * number)
    tracemalloc.start()
    try:
        run(images / "list.txt", force=True)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.png", "zero.png"], ids=["images", "errors"])
def test_memory_does_not_grow_with_the_number_of_images(images: Path, name: str) -> None:
    (images / "a.png").write_bytes(png(204, 51))
    (images / "zero.png").write_bytes(b"")
    peaks = [peak_memory(images, name, number) for number in (50, 200, 2000)]
    assert peaks[2] < peaks[1] * 1.2 + 50_000


def test_inputs_are_taken_as_they_are_needed(images: Path) -> None:
    (images / "a.png").write_bytes(png(204, 51))
    taken = 0

    def endless() -> Iterator[ImageInput]:
        nonlocal taken
        while True:
            taken += 1
            yield ImageInput(images / "a.png", "a.png")

    rows = classify(endless(), PREDICTOR, batch=4)
    for _ in range(100):
        next(rows)
    rows.close()
    assert taken <= 100 + 3 * 4


def test_progress_counts_the_inputs_first(images: Path) -> None:
    for number in range(5):
        (images / f"{number}.png").write_bytes(png(1, 2))
    seen: list[tuple[int, int | None]] = []
    run("images", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 5) for done in range(1, 6)]


@pytest.mark.parametrize(
    ("conditions", "names"),
    [
        (["decision=review"], ["d.png"]),
        (["class=none", "decision=auto"], ["c.png"]),
        (["class="], ["x.png"]),
        (["confidence=0.800000"], ["a.png", "b.png", "c.png"]),
    ],
)
def test_only_rows_that_are_wanted_are_written(
    images: Path, conditions: list[str], names: list[str]
) -> None:
    for name, left, right in [("a", 204, 51), ("b", 204, 0), ("c", 51, 0), ("d", 115, 0)]:
        (images / f"{name}.png").write_bytes(png(left, right))
    (images / "x.png").write_bytes(b"")
    summary = run("images", where=conditions)
    assert [row["image"] for row in read()] == names
    assert (summary.rows, summary.errors, summary.review) == (5, 1, 1)


@pytest.mark.parametrize("condition", ["review", "decisions=review", "=", "class=a"])
def test_a_condition_that_is_none_is_refused(condition: str) -> None:
    with pytest.raises(WaferError, match="not COLUMN=VALUE, each column once; the columns are im"):
        columns_wanted(["class=scratch", condition])


def test_an_existing_output_is_kept_without_force(images: Path) -> None:
    (images / "a.png").write_bytes(png(204, 51))
    Path("out.csv").write_text("mine")
    with pytest.raises(WaferError, match=r"out\.csv exists; add --force"):
        run("images")
    assert Path("out.csv").read_text() == "mine"
    run("images", force=True)
    assert read()[0]["class"] == "scratch"


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("out.txt", r"must end in \.csv, \.jsonl or \.parquet"),
        ("folder.csv", "is a folder"),
        ("file/out.csv", "cannot be written"),
    ],
)
def test_outputs_that_cannot_be(images: Path, output: str, message: str) -> None:
    (images / "a.png").write_bytes(png(204, 51))
    Path("folder.csv").mkdir()
    Path("file").write_text("")
    with pytest.raises(WaferError, match=message):
        run("images", output=output)


def test_an_input_without_an_image_writes_nothing(images: Path) -> None:
    with pytest.raises(DataError):
        run("images")
    assert not Path("out.csv").exists()


def errors(inputs: Iterable[ImageInput]) -> Generator[Row, None, None]:
    for item in inputs:
        yield Row(image=item.name, model="m", error="e" * 500)


def test_a_full_disk_is_an_error_after_which_the_same_command_ends_well(images: Path) -> None:
    names = [f"{number}.png" for number in range(1000)]
    (images / "list.txt").write_text("\n".join(names))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(WaferError, match=r"out\.csv cannot be written") as caught:
            run("images/list.txt", classifier=errors)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.strerror(errno.EFBIG) in str(caught.value)
    assert not Path("out.csv").exists()
    assert run("images/list.txt", classifier=errors).rows == 1000
    assert [row["image"] for row in read()] == names
    assert sorted(path.name for path in Path().iterdir()) == ["images", "out.csv"]


def test_a_removed_output_folder_is_an_error(images: Path) -> None:
    (images / "list.txt").write_text("a.png")

    def removing(inputs: Iterable[ImageInput]) -> Generator[Row, None, None]:
        yield from errors(inputs)
        shutil.rmtree("results")

    with pytest.raises(WaferError, match=r"cannot be written .* bring the folder back and start"):
        run("images/list.txt", output="results/out.csv", classifier=removing)


class Fixed:
    """Answers the same for every image."""

    def __init__(self, boxes: tuple[float, ...], score: float) -> None:
        self.boxes, self.score = boxes, score

    def infer(self, images: NDArray[np.uint8], /) -> TopOne:
        number = len(images)
        scores = np.tile(np.array([self.score, 0.0]), (number, 1))
        return TopOne(np.tile(self.boxes, (number, 1)), np.zeros(number, np.int64), scores)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("boxes", "score"),
    [
        ((0.0, 0.0, 9.0, float("nan")), 0.5),
        ((0.0, 0.0, 9.0, float("inf")), 0.5),
        ((0.0, 0.0, 9.0, 9.0), float("nan")),
        ((0.0, 0.0, 9.0, 9.0), 1.5),
    ],
)
def test_a_model_that_gives_no_numbers_stops_the_run(
    images: Path, boxes: tuple[float, ...], score: float
) -> None:
    (images / "a.png").write_bytes(png(204, 51))
    diverged = replace(PREDICTOR, engine=Fixed(boxes, score))
    with pytest.raises(WeightsError, match=r"brightness-1 gives no usable numbers for 'a\.png'"):
        run("images", predictor=diverged)
    assert not Path("out.csv").exists()


def test_colour_reaches_the_model_as_rgb(images: Path) -> None:
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[..., 0], pixels[..., 2] = 200, 100
    Image.fromarray(pixels).save(images / "a.png")
    seen = []

    class Looks(Fixed):
        def infer(self, images: NDArray[np.uint8], /) -> TopOne:
            seen.append(images[0, 0, 0].tolist())
            return super().infer(images)

    colour = replace(PREDICTOR, colour=True, engine=Looks((0.0, 0.0, 9.0, 9.0), 0.9))
    run("images", predictor=colour)
    assert seen == [[200, 0, 100]]


@pytest.mark.parametrize("make", [lambda: Row(image="a", model="m")])
def test_a_row_is_an_answer_or_an_error(make: Callable[[], Row]) -> None:
    with pytest.raises(ValueError, match="either a prediction or an error"):
        make()
