"""Pictures of rows: what they show, what they are called, and the same ones after a stop."""

import hashlib
import io
import os
import shutil
from collections.abc import Callable, Generator, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wafer.datasets.errors import DataError, WaferError
from wafer.datasets.images import decode_bytes
from wafer.datasets.records import Box
from wafer.evaluation.records import Prediction
from wafer.inference import pictures, unfinished
from wafer.inference.drawing import annotated, cut_out, explained
from wafer.inference.output import Summary, classify_to_file
from wafer.inference.pictures import Draw, Pictures, plain_name
from wafer.inference.records import Row
from wafer.inference.sources import ImageInput

BATCH = 4
BOX = Box(10.25, 4.0, 29.5, 20.75)
COPIES: dict[str, Draw] = {"copies": annotated}
ALL: dict[str, Draw] = {"copies": annotated, "crops": cut_out}


class Stop(Exception):
    """What ends a run in the middle."""


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(unfinished, "PIECE_SECONDS", 0.0)
    monkeypatch.setattr(pictures, "AHEAD", 0)  # so that a stop comes behind a known picture
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (30, 40), np.uint8)


def save(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed)).save(path)


def answer(item: ImageInput) -> Row:
    """A scratch in every image but those with an odd size, which are broken or show nothing."""
    if not item.path.is_file():
        return Row(image=item.name, model="m", error="gone")
    digest = hashlib.sha256(item.path.read_bytes()).hexdigest()
    name = "none" if item.path.stem.startswith("none") else "a/b"
    box = None if name == "none" else BOX
    prediction = Prediction(item.name, box, name, 0.75, "review", "low score")
    heat = np.zeros((15, 20), np.float32)
    heat[2:10, 5:15] = 0.5
    return Row(
        image=item.name, model="m", sha256=digest, prediction=prediction, class_code=20, heat=heat
    )


def run(
    *arguments: str,
    draws: dict[str, Draw] = ALL,
    stop: int | None = None,
    where: dict[str, str] | None = None,
    recursive: bool = False,
    model: str = "m",
    output: str = "out.csv",
    before: Callable[[ImageInput], None] = lambda item: None,
) -> Summary:
    def rows(inputs: Iterable[ImageInput]) -> Generator[Row, None, None]:
        for number, item in enumerate(inputs):
            if number == stop:
                raise Stop
            row = answer(item)
            before(item)
            yield row

    return classify_to_file(
        arguments,
        rows,
        Path(output),
        model=model,
        batch=BATCH,
        recursive=recursive,
        where=where,
        pictures=Pictures(
            draws={Path(name): draw for name, draw in draws.items()},
            decode=partial(decode_bytes, colour=False, white_level=255),
        ),
        force=True,
    )


def files(*folders: str) -> dict[str, bytes]:
    paths = [path for folder in folders for path in Path(folder).rglob("*") if path.is_file()]
    return {path.as_posix(): path.read_bytes() for path in paths}


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_a_crop_is_what_is_in_the_box_and_a_copy_hides_nothing_else(images: Path) -> None:
    save(images / "a.png", 1)
    save(images / "none.png", 2)
    run("images", "images/gone.png")
    made = files("copies", "crops")
    assert sorted(made) == [
        "copies/000001_images_a.png",
        "copies/000002_images_none.png",
        "crops/a_b-20/000001_images_a.png",
    ]
    crop = pixels(made["crops/a_b-20/000001_images_a.png"])
    np.testing.assert_array_equal(crop, noise(1)[4:21, 10:30])
    copy = pixels(made["copies/000001_images_a.png"])[-30:, :40]
    drawn = np.zeros((30, 40), np.bool_)
    drawn[4:21, 10:30], drawn[6:19, 12:28] = True, False  # the frame of the box, two pixels
    np.testing.assert_array_equal(copy[~drawn], np.repeat(noise(1)[~drawn][:, None], 3, axis=1))
    assert (copy[4, 10:30] == (213, 94, 0)).all()
    nothing = pixels(made["copies/000002_images_none.png"])
    np.testing.assert_array_equal(nothing[-30:, :40, 0], noise(2))
    assert nothing[:-30].min() < 100  # words on a band


def test_heat_colours_what_is_hot_and_nothing_else(images: Path) -> None:
    save(images / "none.png", 3)
    run("images", draws={"why": explained})
    shown = pixels(files("why")["why/000001_none.png"])[-30:, :40]
    ground = np.repeat(noise(3)[..., None], 3, axis=2)
    np.testing.assert_array_equal(shown[22:], ground[22:])
    hottest = (252, 255, 164)  # of the colour map
    blended = 0.35 * ground[6:18, 12:28] + 0.65 * np.array(hottest)
    assert np.abs(shown[6:18, 12:28] - blended).max() <= 1


def test_names_are_plain_and_never_the_same(images: Path) -> None:
    names = [
        *("lot1/a.png", "lot2/a.png", "lot1_a.png", "a b\n'$(x).png", "=1.png", "-r.png"),
        *("ウエハ" * 20 + ".png", ".x.y.png", "a.png.jpg"),
    ]
    for number, name in enumerate(names):
        save(images / name, number)
    listed = [f"images/{name}" for name in names]
    run(*listed, "images/../images/a.png.jpg", "images/a.png.jpg", draws=COPIES)
    found = sorted(files("copies"))
    assert found == [
        "copies/000001_images_lot1_a.png",
        "copies/000002_images_lot2_a.png",
        "copies/000003_images_lot1_a.png",
        "copies/000004_images_a b___(x).png",
        "copies/000005_images_=1.png",
        "copies/000006_images_-r.png",
        f"copies/000007_ハ{'ウエハ' * 13}.png",
        "copies/000008_images__x_y.png",
        "copies/000009_images_a_png.png",
        "copies/000010_images____images_a_png.png",
        "copies/000011_images_a_png.png",
    ]


@pytest.mark.parametrize("name", ["", ".", "../..", "/", "\0", "a" * 999, "é" * 999, "ウ" * 999])
def test_any_text_is_a_name_in_the_folder(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"000001_{plain_name(name)}.png"
    path.write_bytes(b"")
    assert list(tmp_path.iterdir()) == [path]
    assert plain_name(plain_name(name)) == plain_name(name)


def many(images: Path) -> None:
    for number in range(23):
        save(images / f"{'none' if number % 5 == 3 else 'x'}{number:02d}.png", number)


def test_pictures_are_those_of_the_rows_that_are_written(images: Path) -> None:
    many(images)
    run("images", where={"class": "none"})
    assert sorted(files("copies", "crops")) == [
        f"copies/{number:06d}_none{name}.png"
        for number, name in enumerate(("03", "08", "13", "18"), 1)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("change", ["nothing", "new", "model", "no folder"])
def test_stopped_and_gone_on_with_the_pictures_are_those_of_one_run(
    images: Path, change: str
) -> None:
    many(images)
    with pytest.raises(Stop):
        run("images", stop=18)
    assert len(files("copies")) - 1 == 18
    (Path("copies") / ".000017_x.png.tmp-0a1b").write_bytes(b"half")
    kept, model = 16, "m"
    if change == "new":
        save(images / "none04.png", 99)
        kept = 0
    elif change == "model":
        kept, model = 0, "other"
    elif change == "no folder":
        shutil.rmtree("crops")
        kept = 0
    assert run("images", model=model).before == kept
    resumed = files("copies", "crops")
    assert not any(".unfinished" in name or ".tmp" in name for name in resumed)
    for name in ("copies", "crops"):
        shutil.rmtree(name)
    run("images", model=model)
    assert files("copies", "crops") == resumed


def test_two_runs_that_were_stopped_over_one_folder_do_not_mix_their_pictures(images: Path) -> None:
    many(images)
    run("images")
    whole = files("copies", "crops")
    for name in ("copies", "crops"):
        shutil.rmtree(name)
    save(Path("others/x.png"), 98)
    with pytest.raises(Stop):
        run("images", stop=18)
    with pytest.raises(Stop):
        run(*["others/x.png"] * 20, stop=17, output="other.csv")
    assert len(files("copies")) == 1 + 17
    assert run("images").before == 0
    assert files("copies", "crops") == whole


def test_a_folder_with_something_in_it_is_left_alone(images: Path) -> None:
    save(images / "a.png", 1)
    Path("copies").mkdir()
    Path("copies/000001_images_a.png").write_text("mine")
    with pytest.raises(WaferError, match="copies is not empty; name a new folder for pictures"):
        run("images")
    assert files("copies") == {"copies/000001_images_a.png": b"mine"}
    assert not Path("out.csv").exists()
    assert not Path("crops").exists()
    Path("file").write_text("mine")
    with pytest.raises(WaferError, match="file is a file"):
        run("images", draws={"file": annotated})
    with pytest.raises(WaferError, match=r"file/x cannot be made \(Not a directory\)"):
        run("images", draws={"file/x": annotated})
    Path("empty").mkdir()
    run("images", draws={"empty": annotated})
    assert list(files("empty")) == ["empty/000001_a.png"]
    with pytest.raises(WaferError, match="empty is not empty"):
        run("images", draws={"empty": annotated})


@pytest.mark.parametrize("argument", ["images", "nomatch/*.png"])
def test_an_input_without_an_image_makes_no_folder(images: Path, argument: str) -> None:
    with pytest.raises(DataError, match="no image"):
        run(argument)
    assert [path.name for path in Path().iterdir()] == ["images"]


def test_what_somebody_puts_into_a_folder_meanwhile_is_not_overwritten(images: Path) -> None:
    many(images)
    with pytest.raises(Stop):
        run("images", draws=COPIES, stop=9)
    mine = {"copies/notes.txt": b"mine", "copies/000008_mine.txt": b"mine"}
    for name, content in mine.items():
        Path(name).write_bytes(content)

    def put(item: ImageInput) -> None:
        if item.name == "x20.png":
            Path("copies/000021_x20.png").write_bytes(b"mine")

    with pytest.raises(WaferError, match=r"000021_x20\.png was put there meanwhile"):
        run("images", draws=COPIES, before=put)
    assert Path("copies/000021_x20.png").read_bytes() == b"mine"
    assert mine.items() <= files("copies").items()


def test_a_run_does_not_look_at_its_own_pictures(images: Path) -> None:
    save(images / "a.png", 1)
    save(images / "z" / "b.png", 2)
    draws: dict[str, Draw] = {"images/out": annotated}
    for _ in range(2):
        with pytest.raises(Stop):
            run("images", draws=draws, recursive=True, stop=1)
        assert run("images", draws=draws, recursive=True).rows == 2
        assert sorted(files("images/out")) == [
            "images/out/000001_a.png",
            "images/out/000002_z_b.png",
        ]
        shutil.rmtree("images/out")


def test_an_image_that_is_changed_meanwhile_stops_the_run(images: Path) -> None:
    many(images)

    def change(item: ImageInput) -> None:
        if item.name == "x12.png":
            save(item.path, 77)

    with pytest.raises(WaferError, match=r"x12\.png was changed while it was looked at; start"):
        run("images", before=change)
    assert run("images").before == 12
    crop = pixels(files("crops")["crops/a_b-20/000015_x12.png"])
    np.testing.assert_array_equal(crop, noise(77)[4:21, 10:30])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be sure of the file size limit here")
def test_a_full_disk_is_an_error_after_which_the_same_command_ends_well(images: Path) -> None:
    import resource

    many(images)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))
    try:
        with pytest.raises(WaferError, match=r"copies/0000.*png cannot be written \(File too lar"):
            run("images", draws=COPIES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    run("images", draws=COPIES)
    assert len(files("copies")) == 23
