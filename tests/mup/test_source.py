import pytest
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

from core.mup.source import name_of, source_of
from core.mup.uvit import UViT


@pytest.mark.parametrize(
    ("model_class", "name"),
    [
        (DiTTransformer2DModel, "diffusers:DiTTransformer2DModel"),
        (UViT, "core.mup.uvit:UViT"),
    ],
)
def test_a_class_is_found_again_by_its_name(model_class, name):
    assert name_of(model_class) == name
    assert source_of(name) is model_class


@pytest.mark.parametrize(
    "name", ["UViT", "", "core.mup.uvit", "core.mup.uvit:", "core.mup.uvit:Vit", "nosuch:A", ":A"]
)
def test_a_name_of_nothing_is_refused_or_none(name):
    with pytest.raises(ValueError, match="want a model class as module:name, such as diffusers:"):
        source_of(name)
    assert source_of(name, missing_ok=True) is None


def test_no_name_is_no_class():
    assert source_of(None, missing_ok=True) is None
