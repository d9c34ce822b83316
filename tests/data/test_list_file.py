"""Lists of images: what counts as a line, and what is refused."""

from __future__ import annotations

import pytest

from cpt_plugin.data.list_file import read_listed
from cpt_plugin.errors import DataError


def test_comments_and_empty_lines_are_no_images(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("# image variant\n\n0034309 707-320\n  # more\na/b.png A320 neo\n")
    assert read_listed(path) == [("0034309.jpg", "707-320"), ("a/b.png", "A320 neo")]


@pytest.mark.parametrize("line", ["0034309", "/a.jpg x", "../a.jpg x"])
def test_what_is_no_image_with_its_label_is_refused(tmp_path, line):
    path = tmp_path / "list.txt"
    path.write_text(f"0034309 707-320\n{line}\n")
    with pytest.raises(DataError, match="in line 2, which is no image with its label"):
        read_listed(path)
