"""The owner's own labels and splits, from a table beside the pictures."""

from pathlib import Path

import pytest

from workflow.data.layout import NO_TABLE, Layout, understand
from workflow.data.listing import list_files
from workflow.errors import BakeoffError

FILES = ("1.png", "2.png", "sub/3.png", "4.png")


def _understand(root: Path, files: tuple[str, ...] = FILES, **tables: bytes | str) -> Layout:
    """With pictures without content, and tables by their names, of which the dot and slashes are spelt out."""
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for name, content in tables.items():
        path = root / name.replace("__", "/").replace("_csv", ".csv").replace("_jsonl", ".jsonl")
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return understand(root, list_files(root))


def _found(layout: Layout) -> dict[str, tuple[str, str]]:
    return {"/".join(file.parts): (file.split, file.label) for file in layout.files}


CATS = {"1.png": ("", "cat"), "2.png": ("", "dog"), "sub/3.png": ("", "cat")}


@pytest.mark.parametrize(
    "content",
    [
        "1.png,cat\n2.png,dog\nsub/3.png,cat\n",
        "file,class\n1.png,cat\n2.png,dog\nsub/3.png,cat\n",
        "\ufeffFile;Class\r\n1.png;cat\r\n2.png;dog\r\nsub\\3.png;cat\r\n",
        "label\tconfidence\tfile_name\ncat\t0,5\t./1.png\n dog \t1\t2.png\n\ncat\t\tsub/3.png",
        '"1.png","cat"\n"2.png","dog"\n"sub/3.png","cat"',
        'file, class\n"1.png", "cat"\n2.png, dog,\nsub/3.png,"cat"\n',
    ],
)
def test_classes_come_from_the_table_and_pictures_that_it_does_not_name_are_left_out(
    content: str, tmp_path: Path
) -> None:
    layout = _understand(tmp_path, labels_csv=content)
    assert _found(layout) == CATS
    assert layout.left_out == {"not in labels.csv, left out": 1}
    assert layout.in_words(2) == "no splits; classes from labels.csv: 2"


def test_a_third_column_says_the_split(tmp_path: Path) -> None:
    content = "1.png,cat,train\n2.png,dog,Train\nsub/3.png,cat,testing\n4.png,dog,val\n"
    layout = _understand(tmp_path, labels_csv=content)
    assert _found(layout) == {
        "1.png": ("train", "cat"), "2.png": ("train", "dog"), "sub/3.png": ("test", "cat"), "4.png": ("valid", "dog")
    }  # fmt: skip
    assert layout.in_words(2) == "splits from labels.csv; classes from labels.csv: 2"


def test_splits_alone_leave_the_folders_to_be_classes(tmp_path: Path) -> None:
    files = ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png")
    content = "file,split\ncat/1.png,train\ncat/2.png,test\ndog/1.png,train\ndog/2.png,test\n"
    layout = _understand(tmp_path, files, labels_csv=content)
    assert _found(layout)["dog/2.png"] == ("test", "dog")
    assert layout.in_words(2) == "splits from labels.csv, valid taken out of train; classes from folders: 2"


def test_classes_alone_leave_the_folders_to_be_splits(tmp_path: Path) -> None:
    files = ("train/1.png", "train/2.png", "test/1.png")
    layout = _understand(tmp_path, files, labels_csv="train/1.png,cat\ntrain/2.png,dog\ntest/1.png,dog\n")
    assert _found(layout)["test/1.png"] == ("test", "dog")
    assert layout.in_words(2) == (
        "splits from folders (train, test), valid taken out of train; classes from labels.csv: 2"
    )


def test_an_image_folder_of_hugging_face_is_read_as_it_is(tmp_path: Path) -> None:
    files = ("train/1.png", "train/2.png", "test/1.png")
    tables = {
        "train__metadata_csv": "file_name,label\n1.png,0\n2.png,1\n",
        "test__metadata_csv": "file_name,label\n1.png,1\n",
    }
    layout = _understand(tmp_path, files, **tables)
    assert _found(layout) == {"train/1.png": ("train", "0"), "train/2.png": ("train", "1"), "test/1.png": ("test", "1")}
    assert layout.left_out == {}
    assert layout.in_words(2).endswith("classes from metadata.csv: 2")


@pytest.mark.parametrize(
    "content",
    [
        '{"file_name": "1.png", "label": "cat"}\n{"file_name": "2.png", "label": "dog"}\n'
        '{"file_name": "sub/3.png", "label": "cat"}\n',
        '\ufeff{"label": "cat", "file_name": "./1.png", "box": [[1, 2]]}\r\n\r\n'
        '{"file_name":"2.png","label":" dog "}\r\n'
        '{"text": "a\u2028b", "note": null, "file_name": "sub\\\\3.png", "label": "cat"}',
    ],
)
def test_the_other_form_of_hugging_faces_metadata_says_the_same(content: str, tmp_path: Path) -> None:
    layout = _understand(tmp_path, metadata_jsonl=content)
    assert _found(layout) == CATS
    assert layout.left_out == {"not in metadata.jsonl, left out": 1}
    assert layout.in_words(2) == "no splits; classes from metadata.jsonl: 2"


@pytest.mark.parametrize(
    "table", [{"metadata_csv": "image,label\n1.png,a\n2.png,b\n"},
              {"metadata_jsonl": '{"image": "1.png", "label": "a"}\n{"image": "2.png", "label": "b"}'}],
)  # fmt: skip
def test_a_header_of_metadata_is_one_even_if_a_file_is_called_so(table: dict[str, str], tmp_path: Path) -> None:
    assert _understand(tmp_path, ("1.png", "2.png", "image"), **table).classes == ["a", "b"]


def test_values_that_are_no_text_are_kept_as_they_are_written(tmp_path: Path) -> None:
    content = (
        '{"file_name": "1.png", "label": 7e1, "split": "train"}\n'
        '{"file_name": "2.png", "label": true, "split": "Train"}\n'
        '{"file_name": "sub/3.png", "label": 1.50, "split": "training"}\n'
    )
    assert _found(_understand(tmp_path, metadata_jsonl=content)) == {
        "1.png": ("train", "7e1"), "2.png": ("train", "true"), "sub/3.png": ("train", "1.50")
    }  # fmt: skip


def test_each_split_may_have_either_form_beside_its_pictures_however_deep(tmp_path: Path) -> None:
    files = ("train/train/1.png", "train/train/2.png", "test/pack/1.png", "val/1.png")
    tables = {
        "train__train__metadata_jsonl": '{"file_name": "1.png", "label": 0}\n{"file_name": "2.png", "label": 1}\n',
        "test__pack__metadata_csv": "file_name,label\n1.png,1\n",
        "val__labels_csv": "1.png,0\n",
    }
    layout = _understand(tmp_path, files, **tables)
    assert _found(layout) == {
        "train/train/1.png": ("train", "0"), "train/train/2.png": ("train", "1"), "test/pack/1.png": ("test", "1"),
        "val/1.png": ("valid", "0"),
    }  # fmt: skip
    assert layout.left_out == {}
    assert layout.in_words(2).endswith("; classes from labels.csv, metadata.csv and metadata.jsonl: 2")


def test_the_first_table_of_a_split_is_read_from_the_outside_in(tmp_path: Path) -> None:
    files = ("train/train/1.png", "train/train/2.png", "test/1.png")
    tables = {
        "train__labels_csv": "train/1.png,cat\ntrain/2.png,dog\n",
        "train__train__labels_csv": "1.png,0\n2.png,0\n",
        "test__labels_csv": "1.png,dog\n",
    }
    layout = _understand(tmp_path, files, **tables)
    assert layout.classes == ["cat", "dog"]
    assert layout.left_out == {f"tables left out that are no {NO_TABLE}": 1}


def test_a_table_says_splits_whatever_folders_are_called(tmp_path: Path) -> None:
    files = ("train/test/1.png", "train/test/2.png", "val/1.png")
    table = "train/test/1.png,cat,train\ntrain/test/2.png,dog,train\nval/1.png,cat,test\n"
    assert _found(_understand(tmp_path, files, labels_csv=table)) == {
        "train/test/1.png": ("train", "cat"), "train/test/2.png": ("train", "dog"), "val/1.png": ("test", "cat")
    }  # fmt: skip


def test_a_table_in_the_folder_of_a_class_is_just_another_file(tmp_path: Path) -> None:
    files = ("train/cat/1.png", "train/dog/1.png", "test/cat/1.png")
    layout = _understand(tmp_path, files, test__cat__labels_csv="not,read\n")
    assert layout.classes == ["cat", "dog"]
    assert layout.left_out == {f"tables left out that are no {NO_TABLE}": 1}


def test_both_forms_in_one_place_are_refused(tmp_path: Path) -> None:
    line = '{"file_name": "1.png", "label": "cat"}'
    with pytest.raises(BakeoffError) as error:
        _understand(tmp_path, metadata_jsonl=line, metadata_csv="file_name,text\n1.png,a cat\n")
    assert str(error.value) == (
        f"{tmp_path}: has metadata.csv and metadata.jsonl; remove the one that is not to be read"
    )
    layout = _understand(tmp_path, labels_csv="1.png,cat\n2.png,dog\n")  # takes precedence over both
    assert layout.in_words(2) == "no splits; classes from labels.csv: 2"


def test_a_table_may_have_capitals_in_its_name(tmp_path: Path) -> None:
    layout = _understand(tmp_path, ("1.png", "2.png"), Labels_csv="1.png,cat\n2.png,dog\n")
    assert (layout.classes, layout.left_out) == (["cat", "dog"], {})


def test_metadata_of_something_else_are_just_another_file(tmp_path: Path) -> None:
    files = ("cat/1.png", "dog/1.png")
    layout = _understand(tmp_path, files, metadata_csv='file_name,text\ncat/1.png,"a" cat\n')
    assert layout.classes == ["cat", "dog"]
    assert layout.left_out == {f"tables left out that are no {NO_TABLE}": 1}
    (tmp_path / "metadata.csv").unlink()
    layout = _understand(tmp_path, files, metadata_jsonl='{"file_name": "cat/1.png", "text": "a cat"}\n')
    assert layout.classes == ["cat", "dog"]
    assert layout.left_out == {f"tables left out that are no {NO_TABLE}": 1}


def test_an_accent_may_be_written_in_either_way(tmp_path: Path) -> None:
    layout = _understand(tmp_path, ("caf\u00e9.png", "the\u0301.png"), labels_csv="cafe\u0301.png,a\nth\u00e9.png,b\n")
    assert sorted(file.label for file in layout.files) == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "refused"),
    [
        (
            "1.png,cat\n5.png,dog\n6.png,dog\n7.png,a\n8.png,a\n",
            "names 4 of 5 files that are not in its folder (5.png, 6.png, 7.png and 1 more); correct the paths",
        ),
        (
            "id,breed\n1.png,cat\n2.png,dog\n",
            "line 1: id: no such file; if the line is a header, call its columns file, class and split, and otherwise "
            "correct the path",
        ),
        ("image_id,cat,dog\n1.png,1,0\n2.png,0,1\n", "line 1: image_id: no such file; if the line is a header"),
        (
            "file,class\n1.png,cat\n2.png,dog, large\n",
            "line 3: 2.png: has 3 columns, but the header has 2; put text that contains separators into double quotes",
        ),
        ('file,class\n1.png,"cat\n2.png,dog\n', "line 2: not valid CSV (unexpected end of data); correct it"),
        (
            "path,label,data set\n1.png,cat,train\n2.png,dog,Train\n4.png,dog,valid\n",
            "column data set has names of splits; call it split, or remove it",
        ),
        ("1.png,cat\n2.png,dog\n1.png,dog\n", "line 3: 1.png: stands in line 1 already; remove one of the two"),
        ("file,class\n1.png,cat\n,dog\n", "line 3: no file; add it, or remove the row"),
        ("file,class\n1.png,cat\n2.png,\n", "line 3: 2.png: no class; add it, or remove the row"),
        ("1.png,cat,train\n2.png,cat\n", "line 2: 2.png: no split; add it, or remove the row"),
        (
            "1.png,cat,train\n2.png,cat,holdout\n",
            "line 2: 2.png: split 'holdout': should be one of train, training, val",
        ),
        ("", "has no rows of file and class, as in `cat1.png,cat`; add them or remove it"),
        ("file,class\n", "has no rows of file and class"),
        ("1.png\n2.png\n", "has no rows of file and class"),
        (b"1.png,K\xe4fer\n", "not UTF-8 (invalid continuation byte); save it in UTF-8"),
    ],
)
def test_a_wrong_table_is_refused_in_a_line(content: bytes | str, refused: str, tmp_path: Path) -> None:
    with pytest.raises(BakeoffError) as error:
        _understand(tmp_path, labels_csv=content)
    assert str(error.value).startswith(f"{tmp_path / 'labels.csv'}: {refused}")
    assert "\n" not in str(error.value)


ROW = '{"file_name": "1.png", "label": "cat"}\n'
FORM = 'write an object such as {"file_name": "1.png", "label": "cat"} on each line'


@pytest.mark.parametrize(
    ("content", "refused"),
    [
        (ROW + '{"file_name": "2.png", "label": "dog"\n', "line 2: not valid JSON (Expecting ',' delimiter"),
        (ROW + '\n["2.png", "dog"]\n', f"line 3: not an object; {FORM}"),
        ("[\n" + ROW + "]\n", "line 1: not valid JSON (Expecting value"),
        (ROW + '{"file_name": "2.png", "label": "dog"} {}', "line 2: not valid JSON (Extra data"),
        (ROW + "[" * 100_000, f"line 2: not valid JSON (too deep); {FORM}"),
        (ROW + '{"file_name": "2.png", "label": "a", "label": "b"}', "line 2: not valid JSON (label stands twice)"),
        (ROW + '{"file_name": "2.png", "label": ["dog"]}\n', "line 2: label: should be text or a number, not a list"),
        (ROW + '{"file_name": {"a": 1}, "label": 1}\n', "line 2: file_name: should be text or a number, not an object"),
        (ROW + '{"label": "dog"}\n', "line 2: no file; add it, or remove the row"),
        (ROW + '{"file_name": "2.png"}\n', "line 2: 2.png: no class; add it, or remove the row"),
        (ROW + '{"file_name": "2.png", "label": NaN}\n', "line 2: 2.png: no class; add it, or remove the row"),
        (ROW + ROW, "line 2: 1.png: stands in line 1 already; remove one of the two"),
        ('{"file_name": "../1.png", "label": 1}', "names 1 of 1 files that are not in its folder (../1.png);"),
        ('{"file_name": "/etc/passwd", "label": 1}', "names 1 of 1 files that are not in its folder (/etc/passwd);"),
        (
            '{"file_name": "a\\u0000\\ud800", "label": 1}',
            r"names 1 of 1 files that are not in its folder (a\x00\ud800);",
        ),
        (ROW.replace("}", ', "split": "hold"}'), "line 1: 1.png: split 'hold': should be one of train, training, val"),
        (
            ROW.replace("}", ', "subset": "train"}') + '{"file_name": "2.png", "label": "dog", "subset": "test"}',
            "column subset has names of splits; call it split, or remove it",
        ),
        (b'{"file_name": "1.png", "label": "K\xe4fer"}', "not UTF-8 (invalid continuation byte); save it in UTF-8"),
    ],
)
def test_wrong_metadata_are_refused_in_a_line(content: bytes | str, refused: str, tmp_path: Path) -> None:
    with pytest.raises(BakeoffError) as error:
        _understand(tmp_path, metadata_jsonl=content)
    assert str(error.value).startswith(f"{tmp_path / 'metadata.jsonl'}: {refused}")
    assert "\n" not in str(error.value)


def test_a_table_without_a_picture_to_train_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BakeoffError, match=r"labels\.csv has no picture of the split train; add some$"):
        _understand(tmp_path, labels_csv="1.png,cat,test\n2.png,dog,val\n")


def test_a_table_in_a_splits_folder_says_no_splits(tmp_path: Path) -> None:
    files = ("train/1.png", "test/1.png")
    with pytest.raises(BakeoffError, match=r"labels\.csv: has a column split, but lies in the folder of a split"):
        _understand(tmp_path, files, train__labels_csv="1.png,cat,train\n")
