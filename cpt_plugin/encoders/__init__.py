"""CLIP loading, tokenization, and the text and image encoders that every prompt learner uses."""

from cpt_plugin.encoders.frozen import FrozenCLIP, freeze_clip, plain_state
from cpt_plugin.encoders.frozen_features import check_class_texts, class_means, class_text_features
from cpt_plugin.encoders.image import ImageEncoder, ImagePrompts
from cpt_plugin.encoders.load import available_models, load_clip, sizes_of
from cpt_plugin.encoders.precision import Precision, resolve_precision
from cpt_plugin.encoders.sizes import ModelSizes
from cpt_plugin.encoders.templates import dataset_template, fill_template, single_template
from cpt_plugin.encoders.text import TextEncoder, TextPrompts
from cpt_plugin.encoders.tokens import ClassTokens, check_prompts, tokenize

__all__ = [
    "ClassTokens",
    "FrozenCLIP",
    "ImageEncoder",
    "ImagePrompts",
    "ModelSizes",
    "Precision",
    "TextEncoder",
    "TextPrompts",
    "available_models",
    "check_class_texts",
    "check_prompts",
    "class_means",
    "class_text_features",
    "dataset_template",
    "fill_template",
    "freeze_clip",
    "load_clip",
    "plain_state",
    "resolve_precision",
    "single_template",
    "sizes_of",
    "tokenize",
]
