"""The drawing of the rooms."""

from __future__ import annotations

from docs.hooks import house

STEPS = {"roof": {"wall", "ground"}, "wall": {"ground"}, "ground": set(), "shed": set()}


def test_a_room_stands_above_all_that_it_may_import() -> None:
    assert house.floors(STEPS) == [["ground", "shed"], ["wall"], ["roof"]]


def test_a_line_is_drawn_only_where_no_other_leads_there() -> None:
    assert house.direct(STEPS) == {"roof": {"wall"}, "wall": {"ground"}, "ground": set(), "shed": set()}


def test_every_room_is_drawn_and_stands_in_the_table() -> None:
    rooms, light = house.read()
    drawing, table = house.drawing(), house.table()
    assert light <= rooms.keys()
    for room, needs in rooms.items():
        assert f">{room}</text>" in drawing
        (row,) = (line for line in table.splitlines() if line.startswith(f"| `{room}` |"))
        assert row.endswith(f"| {' '.join(f'`{need}`' for need in sorted(needs))} |")


def test_every_file_says_in_its_first_line_what_it_is() -> None:
    assert all(house._first_line(path) for path in house.PACKAGE.rglob("*.py"))


def test_every_file_stands_in_the_tree() -> None:
    tree = house.tree()
    for path in house.PACKAGE.rglob("*.py"):
        inside = path.relative_to(house.PACKAGE)
        if path.name != "__init__.py":
            below = inside.relative_to(inside.parts[0]) if len(inside.parts) > 1 else inside
            assert f"<code>{below.as_posix()}</code>" in tree, inside
