"""What a data set holds, in words."""

from __future__ import annotations

from bsr_explorer.data.contents import Contents


def test_a_few_classes_are_all_named() -> None:
    contents = Contents(
        {"train": {"cat": 1200, "dog": 7}, "test": {"cat": 3, "dog": 4}},
        {".txt": 12, ".ipynb_checkpoints/": 4, "hidden": 1, "damaged": 2},
    )
    assert str(contents) == (
        "2 classes, with their training images: cat 1,200, dog 7; "
        "left out: 4 in .ipynb_checkpoints/, 12 .txt, 2 damaged, 1 hidden"
    )


def test_many_classes_take_one_line() -> None:
    train = {f"class {number}": 10 + number % 3 for number in range(300)}
    said = str(Contents({"train": train}))
    assert said == "300 classes of 10 to 12 training images each: class 0, class 1, class 2, …"
    same = Contents({"train": dict.fromkeys(train, 5)})
    assert str(same).startswith("300 classes of 5 training images each: ")


def test_of_nothing_nothing_is_said() -> None:
    assert str(Contents()) == ""
