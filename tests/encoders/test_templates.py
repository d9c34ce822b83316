"""Templates by data set name."""

from __future__ import annotations

import logging

import pytest

from cpt_plugin.encoders import fill_template, single_template
from cpt_plugin.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("EuroSAT", "a centered satellite photo of {}."),
        ("eurosat", "a centered satellite photo of {}."),
        ("oxford_pets", "a photo of a {}, a type of pet."),
        ("OxfordFlowers", "a photo of a {}, a type of flower."),
        ("food-101", "a photo of {}, a type of food."),
        ("DescribableTextures", "{} texture."),
        ("dtd", "{} texture."),
        ("fgvc_aircraft", "a photo of a {}, a type of aircraft."),
        ("ucf101", "a photo of a person doing {}."),
        ("caltech-101", "a photo of a {}."),
        ("ImageNet", "a photo of a {}."),
        ("ImageFolder", "a photo of a {}."),
        ("ImageList", "a photo of a {}."),
    ],
)
def test_names_of_the_field(name: str, template: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert single_template(name) == template
    assert caplog.text == ""


def test_unknown_data_sets_get_the_default_and_a_note(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert single_template("shapes:triples:tint") == "a photo of a {}."
    assert "shapes:triples:tint has no template of its own" in caplog.text


def test_filling() -> None:
    assert fill_template("a photo of {}, a type of food.", ["apple_pie", "sushi"]) == [
        "a photo of apple pie, a type of food.",
        "a photo of sushi, a type of food.",
    ]
    for bad in ("a photo", "{} and {}"):
        with pytest.raises(ConfigError, match="exactly once"):
            fill_template(bad, ["cat"])
