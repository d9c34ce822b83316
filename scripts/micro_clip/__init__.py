"""Parts of the pre-training of the embedded micro CLIP (see ``scripts/pretrain_micro_clip.py``)."""
