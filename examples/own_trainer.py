"""Your own prompt learner on Dassl, or where Dassl is absent on the embedded engine; CPT comes by the line marked HOOK.

PYTHONPATH=. .venv/bin/python examples/own_trainer.py [WEIGHT of ETF: 0.25] [OUTPUT: output/own_trainer] [DATA: data]
"""

import sys
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from cpt_plugin import CPTHook, toolkit
from cpt_plugin.cli.repository import default_cfg
from cpt_plugin.encoders import ClassTokens, FrozenCLIP, ImageEncoder, TextEncoder, TextPrompts, load_clip
from cpt_plugin.errors import CPTError
from cpt_plugin.toolkit import build_lr_scheduler, build_optimizer


class OwnModel(nn.Module):
    """Three learned words in front of the class name; the hook reads what text_encoder and image_encoder return."""

    def __init__(self, clip: FrozenCLIP, class_names: list[str]) -> None:
        super().__init__()
        self.text_encoder, self.image_encoder = TextEncoder(clip), ImageEncoder(clip)
        self.tokens = ClassTokens.build(clip, class_names, 3, "a photo of", "end")
        self.prompts = nn.ParameterDict({"context": self.tokens.initial_context().clone()})
        self.scale = clip.logit_scale
        self.frozen_text = self.text_encoder(TextPrompts(self.tokens, self.prompts["context"])).detach()

    def forward(self, image: Tensor) -> Tensor:
        text = F.normalize(self.text_encoder(TextPrompts(self.tokens, self.prompts["context"])), dim=-1)
        return self.scale * F.normalize(self.image_encoder(image), dim=-1) @ text.t()


@toolkit.TRAINER_REGISTRY.register()
class OwnTrainer(toolkit.TrainerX):
    def build_model(self) -> None:
        self.model = OwnModel(load_clip("micro", device=self.device), self.dm.dataset.classnames).to(self.device)
        self.optim = build_optimizer(self.model.prompts, self.cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self.register_model("prompts", self.model.prompts, self.optim, self.sched)
        self.hook = CPTHook(frozen_text=self.model.frozen_text, **CPT).attach(self)  # HOOK

    def forward_backward(self, batch: dict[str, Any]) -> dict[str, float]:
        image, label = batch["img"].to(self.device), batch["label"].to(self.device)
        loss = F.cross_entropy(self.model(image), label)
        self.model_backward_and_update(loss)
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return {"loss": loss.item()}


if __name__ == "__main__":
    weight, output, data = [*sys.argv[1:], *["0.25", "output/own_trainer", "data"][len(sys.argv) - 1 :]]
    shares = {"weight_etf": 1.0, "weight_cc": 0.6, "weight_rs": 0.4}  # CPT's published 0.25 : 0.15 : 0.10
    CPT = {"cluster_size": 4} | {name: share * float(weight) for name, share in shares.items()}
    cfg = default_cfg()
    cfg.merge_from_file(str(Path(__file__).parents[1] / "configs" / "datasets" / "shapes.yaml"))
    cfg.merge_from_list(["DATASET.ROOT", data, "DATASET.WORLD", "colors", "DATASET.NUM_SHOTS", 8, "SEED", 1])
    cfg.merge_from_list(["OPTIM.NAME", "sgd", "OPTIM.LR", 0.02, "OPTIM.MAX_EPOCH", 2, "OUTPUT_DIR", output])
    cfg.merge_from_list(["TRAINER.NAME", "OwnTrainer"])
    toolkit.set_random_seed(cfg.SEED)
    toolkit.setup_logger(output)
    trainer = toolkit.build_trainer(cfg)
    try:
        trainer.train()
    except CPTError as error:
        sys.exit(f"own_trainer.py, whose second word is its output folder: {error}")
    parts = trainer.hook.parts if "hook" in vars(trainer) else "none"
    print(f"toolkit {toolkit.NAME}; parts of CPT in the last step: {parts}")
