from pathlib import Path

import pytest

from wafer.datasets.errors import DataError
from wafer.datasets.image_names import ImageNames, safe_name
from wafer.datasets.labels_csv import (
    LabelRow,
    match_rows,
    read_label_rows,
    rewrite_splits,
    write_labels,
)
from wafer.datasets.records import Sample

ODD_NAMES = (
    "=cmd.png",
    "+a.png",
    "-b.png",
    "@c.png",
    "a b,c.png",
    'q"q.png',
    "晶圆/ü.png",
    "s;t.png",
    " p .png",
)


def rows_of(tmp_path: Path, text: str | bytes) -> tuple[LabelRow, ...]:
    path = tmp_path / "image_labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_label_rows(path)


def test_columns_in_any_order_and_further_ones_left_alone(tmp_path: Path) -> None:
    text = "note,split,Image,class,group\nx,TEST,a.png,scratch,L1\n\n,,b.png,,\n"
    assert rows_of(tmp_path, text) == (
        LabelRow(2, "a.png", "scratch", "L1", "test"),
        LabelRow(4, "b.png", None, None, None),
    )


@pytest.mark.parametrize("further", [",", "remark,remark"])
def test_further_columns_may_share_a_name_or_have_none(tmp_path: Path, further: str) -> None:
    text = f"image,class,group,split,{further}\na.png,s,L1,val,,\nb.png,t,,train,x,y\n"
    assert rows_of(tmp_path, text) == (
        LabelRow(2, "a.png", "s", "L1", "val"),
        LabelRow(3, "b.png", "t", None, "train"),
    )
    rewrite_splits(
        tmp_path / "image_labels.csv",
        {"a.png": "test", "b.png": "test"},
        images=ImageNames(["a.png", "b.png"]),
    )
    assert (tmp_path / "image_labels.csv").read_text() == (
        f"image,class,group,split,{further}\na.png,s,L1,test,,\nb.png,t,,test,x,y\n"
    )
    with pytest.raises(DataError, match="2: 5 cells where the header has 6"):
        rows_of(tmp_path, f"image,class,group,split,{further}\na.png,s,,,\n")


def test_a_byte_order_mark_and_a_cell_of_two_lines(tmp_path: Path) -> None:
    text = '\ufeffimage,class,remark\r\na.png,s,"two\r\nlines"\r\nb.png,t,\r\n'
    assert [(r.line, r.image) for r in rows_of(tmp_path, text)] == [(2, "a.png"), (4, "b.png")]


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("", ["1: no column 'image'", "1: no column 'class'"]),
        ("file,class\n", ["1: no column 'image'; make `image,class,group,split` its first line"]),
        ("image;class\na.png;s\n", ["save it with commas", "save it with commas"]),
        ("image,class,class\n", ["1: column 'class' twice"]),
        ("image,class\na.png\nb.png,s,t\n", ["2: 1 cells", "3: 3 cells where the header has 2"]),
        ("image,class\n,s\n", ["2: no image"]),
        ("image,class,split\na.png,s,dev\n", ["2: unknown split 'dev'; the splits are train, val"]),
        ('image,class\n"a.png,s\n', ["2: not a CSV row"]),
        (b"image,class\nok.png,s\n\xe4.png,s\n", ["3: not UTF-8 text; save it as CSV UTF-8"]),
    ],
)
def test_bad_tables(tmp_path: Path, text: str | bytes, messages: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        rows_of(tmp_path, text)
    lines = str(caught.value).splitlines()
    assert len(lines) == len(messages)
    for message, line in zip(messages, lines, strict=True):
        assert message in line
        assert "image_labels.csv" in line


def test_a_missing_table_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_label_rows(tmp_path / "none.csv")


NAMES = ImageNames(["a.png", "lot1/x.png", "lot2/x.png", "lot2/y.png", "=z.png"])


@pytest.mark.parametrize(
    ("text", "image"),
    [
        ("a.png", "a.png"),
        ("./lot1/x.png", "lot1/x.png"),
        (".\\lot2\\x.png", "lot2/x.png"),
        ("y.png", "lot2/y.png"),
        ("./=z.png", "=z.png"),
    ],
)
def test_an_image_is_found_by_path_or_unique_name(text: str, image: str) -> None:
    assert NAMES.find(text) == image


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x.png", "'x.png' may be lot1/x.png or lot2/x.png"),
        ("b.png", "no image 'b.png'"),
        ("a", "no image 'a'"),
        ("lot3/y.png", "no image"),
    ],
)
def test_an_image_is_not_guessed(text: str, message: str) -> None:
    with pytest.raises(LookupError, match=message):
        NAMES.find(text)


def test_stems_are_found_where_they_are_asked_for() -> None:
    assert NAMES.find("lot2/y", stems=True) == "lot2/y.png"
    assert NAMES.find("y", stems=True) == "lot2/y.png"
    with pytest.raises(LookupError, match="may be"):
        NAMES.find("x", stems=True)


def test_a_top_level_image_wins_over_the_same_name_below() -> None:
    assert ImageNames(["x.png", "lot/x.png"]).find("x.png") == "x.png"


def test_rows_that_contradict_or_fit_nothing_are_all_named() -> None:
    rows = [
        LabelRow(2, "a.png", "s", None, None),
        LabelRow(3, "./a.png", "s", None, None),
        LabelRow(4, "a.png", "t", None, None),
        LabelRow(5, "gone.png", "s", None, None),
        LabelRow(6, "x.png", "s", None, None),
        LabelRow(7, "y.png", "dust", None, None),
    ]
    matched, faults = match_rows(rows, file="t.csv", images=NAMES, classes=("s", "t"))
    assert matched["a.png"] == rows[0]
    assert [(fault.line, fault.problem) for fault in faults] == [
        (4, "a.png differs from its row in line 2"),
        (5, "no image 'gone.png'"),
        (6, "'x.png' may be lot1/x.png or lot2/x.png"),
        (7, "unknown class 'dust'"),
    ]


def test_odd_names_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    samples = [Sample(n, "s", group=f"={i}", split="val") for i, n in enumerate(ODD_NAMES)]
    write_labels(path, samples)
    for line in path.read_text().splitlines()[1:]:
        assert not any(cell.strip('"').startswith(tuple("=+-@")) for cell in line.split(","))
    matched, faults = match_rows(read_label_rows(path), file="t", images=ImageNames(ODD_NAMES))
    assert faults == []
    assert {n: (r.image_class, r.group, r.split) for n, r in matched.items()} == {
        n: ("s", f"={i}", "val") for i, n in enumerate(ODD_NAMES)
    }
    assert safe_name("@c.png") == "./@c.png"


def test_columns_that_nobody_fills_are_left_out(tmp_path: Path) -> None:
    write_labels(tmp_path / "t.csv", [Sample("a.png", "s"), Sample("b.png")])
    assert (tmp_path / "t.csv").read_text() == "image,class\na.png,s\nb.png,\n"


def test_new_splits_leave_every_other_cell_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    old = 'remark,image,class\n"a, b",./lot1/x.png,s\n=1,y.png,t\n'
    path.write_text(old)
    splits = {"lot1/x.png": "train", "lot2/y.png": "val", "=z.png": "test"}
    kept = rewrite_splits(path, splits, images=NAMES)  # type: ignore[arg-type]
    assert kept == tmp_path / "t.csv.bak-1"
    assert kept.read_text() == old
    assert path.read_text().splitlines() == [
        "remark,image,class,split",
        '"a, b",./lot1/x.png,s,train',
        "=1,y.png,t,val",
        ",./=z.png,,test",
    ]
    rewrite_splits(path, dict.fromkeys(splits, "test"), images=NAMES)  # type: ignore[arg-type]
    assert [row.split for row in read_label_rows(path)] == ["test"] * 3
    assert (tmp_path / "t.csv.bak-2").exists()
