"""Licence and languages of a model, as its card tells them."""

from __future__ import annotations

from prunerzero.language.cards import inherited_fields

CARD = """---
license: other
license_name: mine
tags:
- chat
language:
- ja
---
# A model
---
more
"""


def test_a_folder_tells_it_in_its_card(tmp_path):
    (tmp_path / "README.md").write_text(CARD)
    expected = {"license": "other", "license_name": "mine", "language": ["ja"]}
    assert inherited_fields(str(tmp_path)) == expected
    (tmp_path / "model.gguf").write_text("")
    assert inherited_fields(str(tmp_path / "model.gguf")) == expected


def test_what_a_card_does_not_tell_is_not_known(tmp_path):
    assert inherited_fields(str(tmp_path)) == {}
    for text in (
        "# no front matter\n",
        "---\n: [\n---\n",
        "---\nlicense: mit\n",
        "---\n- a\n---\n",
    ):
        (tmp_path / "README.md").write_text(text)
        assert inherited_fields(str(tmp_path)) == {}


def test_the_bundled_model_has_the_licence_of_the_package():
    assert inherited_fields("bundled")["license"] == "apache-2.0"


def test_a_hub_that_cannot_be_asked_leaves_it_unknown(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert inherited_fields("nobody/nothing") == {}
