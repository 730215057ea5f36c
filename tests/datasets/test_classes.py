from pathlib import Path

import pytest
from PIL import Image

from wafer.datasets.classes import ClassTable, DefectClass, paper_classes, read_classes
from wafer.datasets.errors import DataError
from wafer.datasets.records import Annotation, Box, Sample
from wafer.datasets.workspace import Workspace, create_workspace

TABLE = ClassTable(
    (
        DefectClass(41, "BEOL"),
        DefectClass(0, "clean", "none"),
        DefectClass(4, "deviation", "whole_image", killer=True),
    )
)


def test_positions_leave_the_none_class_out() -> None:
    assert TABLE.names == ("BEOL", "clean", "deviation")
    assert TABLE.detector_names == ("BEOL", "deviation")
    assert TABLE.detector_index("deviation") == 1
    assert TABLE.box_names == ("BEOL",)
    assert TABLE.whole_image_names == ("deviation",)
    assert TABLE.none_class == DefectClass(0, "clean", "none")
    with pytest.raises(ValueError, match="not in tuple"):
        TABLE.detector_index("clean")


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    TABLE.write(tmp_path / "classes.yaml")
    assert read_classes(tmp_path / "classes.yaml") == TABLE


def test_the_paper_has_eight_classes() -> None:
    table = paper_classes()
    assert len(table) == 8
    assert table.none_class is not None
    assert table["scratch"].code == 20
    assert table.whole_image_names == ("deviation",)


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("", ["no list of classes"]),
        ("classes: [", ["classes.yaml:1: not valid YAML"]),
        (
            "made: 2024-13-01\nclasses: [{code: 1, name: a}]",
            ["classes.yaml: not valid YAML (month must be in 1..12); write a list"],
        ),
        ("classes: []", ["no list of classes"]),
        ("classes: [scratch]", ["class 1: not a mapping"]),
        ("classes: [{code: 1, name: yes}]", ["class 1: name must be text, not True (quote it)"]),
        ("classes: [{code: '1', name: a}]", ["class 1: code must be a whole number, not '1'"]),
        ("classes: [{code: 1, name: a, colour: red}]", ["class 1: unknown key colour"]),
        ("classes: [{code: 1, name: '=a'}]", ["class 1: class name '=a' starts like"]),
        ("classes: [{code: 1, name: a, kind: blob}]", ["kind of 'a' must be one of box"]),
        ("classes: [{code: 1, name: a}, {code: 2, name: A}]", ["'a' appears twice"]),
        ("classes: [{code: 1, name: a}, {code: 1, name: b}]", ["class code 1 appears twice"]),
        (
            "classes: [{code: x, name: a}, {code: 1, name: b}, {code: 2, name: ''}]",
            ["class 1: code", "class 3: class name"],
        ),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, messages: list[str]) -> None:
    (tmp_path / "classes.yaml").write_text(text)
    with pytest.raises(DataError) as caught:
        read_classes(tmp_path / "classes.yaml")
    assert len(caught.value.faults) == len(messages)
    for message, line in zip(messages, str(caught.value).splitlines(), strict=True):
        assert message in line


def test_a_table_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_bytes(b"classes:\n- {code: 1, name: r\xe4nder}\n")
    with pytest.raises(DataError, match="not UTF-8 text; save it as UTF-8"):
        read_classes(path)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "images").mkdir()
    Image.new("L", (100, 50)).save(tmp_path / "images" / "a.png")
    boxes = (Annotation(Box(0, 0, 10, 10), "BEOL"),)
    samples = (Sample("a.png", None, boxes),)
    return create_workspace(tmp_path, images=tmp_path / "images", classes=TABLE, samples=samples)


@pytest.mark.parametrize(
    "text", ["BEOL\ndeviation\n\n", "\ufeffBEOL\r\ndeviation\r\n", "BEOL", "BEOL\ndeviation\nnew\n"]
)
def test_a_list_of_names_in_the_order_of_the_table_is_left_alone(
    workspace: Workspace, text: str
) -> None:
    (workspace.labels / "classes.txt").write_text(text, encoding="utf-8")
    assert [len(s.annotations or ()) for s in workspace.samples()] == [1]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("deviation\nBEOL\n", "['deviation', 'BEOL']"),
        ("BEOL\nclean\ndeviation\n", "['BEOL', 'clean', 'deviation']"),
        ("BEOL\n\ndeviation\n", "['BEOL', '', 'deviation']"),
    ],
)
def test_a_list_of_names_in_another_order_is_a_fault(
    workspace: Workspace, text: str, names: str
) -> None:
    file = workspace.labels / "classes.txt"
    file.write_text(text)
    with pytest.raises(DataError) as caught:
        workspace.samples()
    assert str(caught.value) == (
        f"{file}: names {names}, where the ids of the classes are those of ['BEOL', 'deviation']; "
        "give the tool this order and number the labels anew, or delete the file if it is old"
    )


def test_a_list_of_names_that_is_not_utf8_is_named(workspace: Workspace) -> None:
    (workspace.labels / "classes.txt").write_bytes(b"r\xe4nder\n")
    with pytest.raises(DataError, match=r"classes.txt: cannot be read as UTF-8 text; save it"):
        workspace.samples()
