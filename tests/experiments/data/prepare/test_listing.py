import json
import zipfile

import pytest
from PIL import Image

from experiments.data.prepare.listing import Item, in_order, list_images


@pytest.fixture
def place(tmp_path):
    """place(names): empty files of these names in the folder "my pictures"."""
    folder = tmp_path / "my pictures"
    folder.mkdir()

    def make(*names, **texts):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        return folder

    return make


def listed(path, table="", label="", caption=""):
    return list_images(path, table, label, caption)


def test_folders_are_classes(place):
    found = listed(place("кошка/1.png", "犬/a b.jpg", "犬/sub/x.PNG"))
    assert found.items == [
        Item("кошка/1.png", "", "кошка", None),
        Item("犬/a b.jpg", "", "犬", None),
        Item("犬/sub/x.PNG", "", "犬", None),
    ]
    assert (found.left_out, found.notes) == ({}, ())


def test_parts_are_splits_and_others_are_left_out(place):
    found = listed(place("Train/a/1.png", "Train/b/2.png", "test/a/3.png", "val/a/4.png"))
    parts = {item.name: (item.part, item.label) for item in found.items}
    assert parts == {
        "Train/a/1.png": ("train", "a"),
        "Train/b/2.png": ("train", "b"),
        "test/a/3.png": ("test", "a"),
    }
    assert found.left_out == {"outside of Train and test": ["val/a/4.png"]}


def test_a_single_folder_has_no_classes_and_loose_images_neither(place):
    assert {item.label for item in listed(place("a/1.png", "a/2.png")).items} == {None}
    found = listed(place("b/3.png", "4.png"))
    assert {item.label for item in found.items} == {None}
    assert "1 images are outside of the folders, such as ['4.png']" in found.notes[0]


def test_files_that_are_no_images_are_listed(place):
    found = listed(place("1.png", "notes.md", ".hidden.png", "Thumbs.db"))
    assert [item.name for item in found.items] == ["1.png"]
    assert found.left_out == {"no image by its name": ["Thumbs.db", "notes.md"]}


def test_captions_are_texts_beside_the_images(place):
    folder = place("1.png", "2.png", "b.txt")
    (folder / "1.txt").write_text("\ufeffa red\n  bird \n", encoding="utf-8")
    found = listed(folder)
    assert [item.caption for item in found.items] == ["a red bird", ""]
    assert found.left_out == {"no image by its name": ["b.txt"]}


TABLES = {
    "metadata.csv": "file_name,label,text\n1.png,7,a bird\nsub/2.png,3,\n",
    "labels.csv": "1.png,7,a bird\nsub\\2.png,3\n",
    "table.csv": "\ufeffCaption,File,Class\na bird,./1.png,7\n,sub/2.png,3\n",
    "metadata.jsonl": '{"file_name": "1.png", "text": ["a bird", "x"], "label": 7}\n\n'
    '{"file_name": "sub/2.png", "label": 3}\n',
    "dataset.json": '{"labels": [["1.png", 7], ["sub/2.png", 3]]}',
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("inside", [True, False])
def test_labels_and_captions_come_from_a_table(place, name, inside, tmp_path):
    folder = place("1.png", "sub/2.png")
    file = (folder if inside else tmp_path) / name
    file.write_text(TABLES[name], encoding="utf-8")
    known = inside and name in ("metadata.csv", "metadata.jsonl", "dataset.json")
    found = listed(folder, "" if known else str(file))
    assert [item.label for item in found.items] == ["7", "3"]
    captions = [None, None] if name == "dataset.json" else ["a bird", ""]
    assert [item.caption for item in found.items] == captions
    assert found.left_out == {}


def test_a_table_can_be_the_data(place):
    folder = place("1.png", "2.png")
    (folder / "t.csv").write_text("file,label\n1.png,a\n2.png,b\n")
    found = listed(folder / "t.csv")
    assert (found.root, [item.label for item in found.items]) == (folder, ["a", "b"])


def test_columns_can_be_chosen(place):
    folder = place("1.png", "2.png")
    (folder / "t.csv").write_text("file,label,text,kind,long\n1.png,a,x,k1,y\n2.png,b,x,k2,z\n")
    found = listed(folder, "t.csv", "kind", "long")
    assert [item[2:] for item in found.items] == [("k1", "y"), ("k2", "z")]
    with pytest.raises(ValueError, match=r"label_column is 'sort', but .* has no such column"):
        listed(folder, "t.csv", "sort")


def test_rows_without_a_file_and_files_without_a_label_are_listed(place):
    folder = place("1.png", "2.png", "3.png")
    (folder / "t.csv").write_text("file,label\n1.png,a\n2.png,\n9.png,b\n")
    found = listed(folder, "t.csv")
    assert [item.name for item in found.items] == ["1.png"]
    assert found.left_out == {
        "in the table, but not in the folder": ["9.png"],
        "no label in the table": ["2.png", "3.png"],
    }


def test_names_match_in_both_forms_of_unicode(place):
    """macOS writes accents apart from their letters."""
    folder = place("e\u0301te\u0301.png", "2.png")
    (folder / "t.csv").write_text("file,label\n\u00e9t\u00e9.png,a\n2.png,b\n", encoding="utf-8")
    assert [item.label for item in listed(folder, "t.csv").items] == ["b", "a"]


def test_captions_may_have_several_lines(place):
    folder = place("1.png", "2.png")
    (folder / "t.csv").write_text('file,text\n1.png,"a\nb, c"\n2.png,d\n')
    assert [item.caption for item in listed(folder, "t.csv").items] == ["a\nb, c", "d"]
    line = '{"file_name": "1.png", "text": "a\u2028b"}\n'
    (folder / "t.jsonl").write_text(line, encoding="utf-8")
    assert listed(folder, "t.jsonl").items[0].caption == "a\u2028b"


def test_two_labels_of_a_file_are_refused_and_of_two_captions_the_first_is_taken(place):
    folder = place("1.png", "2.png")
    (folder / "t.csv").write_text("file,text\n1.png,a\n1.png,b\n2.png,c\n")
    assert [item.caption for item in listed(folder, "t.csv").items] == ["a", "c"]
    (folder / "t.csv").write_text("file,label\n1.png,a\n1.png,b\n2.png,c\n")
    with pytest.raises(ValueError, match=r"two labels of 1.png, 'a' and 'b'"):
        listed(folder, "t.csv")


def test_metadata_of_each_part_are_relative_to_their_folders(place):
    folder = place("train/1.png", "test/1.png")
    for part in ("train", "test"):
        line = {"file_name": "1.png", "text": f"a {part}"}
        (folder / part / "metadata.jsonl").write_text(json.dumps(line))
    found = listed(folder)
    captions = {item.part: item.caption for item in found.items}
    assert captions == {"train": "a train", "test": "a test"}


def test_a_zip_is_listed_like_a_folder(tmp_path):
    path = tmp_path / "pictures.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a/1.png", "b/2.png"):
            archive.writestr(name, b"")
        archive.writestr("a/1.txt", "one")
    found = listed(path)
    assert [item[2:] for item in found.items] == [("a", "one"), ("b", "")]


def test_numbers_are_in_their_order():
    assert in_order(["10", "9", "2"]) == ["2", "9", "10"]
    assert in_order(["10", "9", "b"]) == ["10", "9", "b"]


def test_paths_that_are_no_images_are_refused(place, tmp_path):
    folder = place()
    with pytest.raises(ValueError, match=r"holds no image"):
        listed(folder)
    with pytest.raises(ValueError, match=r"neither a folder, a .zip file nor a table"):
        listed(tmp_path / "none")
    Image.new("RGB", (2, 2)).save(folder / "1.png")
    with pytest.raises(ValueError, match=r"neither a folder"):
        listed(folder / "1.png")
    with pytest.raises(ValueError, match=r"config.prepare.table is 'no.csv'"):
        listed(folder, "no.csv")
    (folder / "t.csv").write_text("id,label\n1,a\n")
    with pytest.raises(ValueError, match=r"no image has a label in the table"):
        listed(folder, "t.csv")
    (folder / "t.jsonl").write_text("[1]\n")
    with pytest.raises(ValueError, match="no JSON object"):
        listed(folder, "t.jsonl")
    (folder / "u.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(ValueError, match="has the columns id, but none of file_name"):
        listed(folder, "u.jsonl")
