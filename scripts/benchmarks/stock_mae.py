"""Trains transformers' own ViTMAEForPreTraining on the batches of a finished run, and scores both on the same patches.

    python scripts/benchmarks/stock_mae.py out/real --data_dir RADIOGRAPHS --json out/stock.json

reads the options of the run from its results.json: same images, bins, masks, steps and learning rate. The stock class
trains on its own loss, over all masked patches; both are scored on masked patches that carry information, as
`eval_loss`. A stock model that starts from scratch learns no position (its tables are zero), so it can only predict the
mean patch of what it sees.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from transformers import ViTMAEForPreTraining, set_seed

from hf_radmae.batching.binning import Bins
from hf_radmae.batching.dataset import RadiographDataset
from hf_radmae.models.mae import RadMAEForPreTraining, reconstruction_loss
from hf_radmae.pretraining.trainer import RadMAETrainer, RadMAETrainingArguments
from hf_radmae.sources.load import load_radiographs


class StockMAE(ViTMAEForPreTraining):
    """The stock class under our trainer: its own loss in training, ours in evaluation."""

    accepts_loss_kwargs = True

    def forward(self, pixel_values, noise=None, patch_mask=None, num_tokens=None, num_items_in_batch=None):
        output = super().forward(pixel_values, noise=noise, interpolate_pos_encoding=True)
        if not self.training:
            target = self.patchify(pixel_values, interpolate_pos_encoding=True)
            if self.config.norm_pix_loss:
                target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
            output.loss = reconstruction_loss(output.logits, target, output.mask * patch_mask)
        return output

    def save_pretrained(self, *args, **kwargs):
        return super().save_pretrained(*args, **{"save_original_format": False, **kwargs})  # or resuming loses layers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of scripts/pretrain.py")
    parser.add_argument("--data_dir", help="the data set's folder, which results.json does not tell")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    results = json.loads((options.run / "results.json").read_text())
    data, arguments = results["data"], results["arguments"]
    source = {"num_images": data["num_images"], "scale": data["phantom_scale"]} if data["dataset"] == "phantom" else {}
    rows, _ = load_radiographs(data["dataset"], options.data_dir, seed=arguments["seed"], **source)
    bins = Bins.from_dict(json.loads((options.run / "preprocessor_config.json").read_text())["bins"])
    common = {"seed": arguments["seed"], "scaling": data["scaling"]}
    ours = RadMAEForPreTraining.from_pretrained(options.run)
    set_seed(arguments["seed"])
    stock = StockMAE(ours.config)
    folder = str(options.run / "stock")
    args = RadMAETrainingArguments(output_dir=folder, report_to="none", figure_images=0, **arguments)
    train = RadiographDataset(rows["train"], bins, train=True, crop_scale=data["crop_scale"], **common)
    validation = RadiographDataset(rows["validation"], bins, **common)
    figures = {"ours": RadMAETrainer(ours, args, eval_dataset=validation).evaluate()["eval_loss"]}
    trainer = RadMAETrainer(stock, args, train_dataset=train, eval_dataset=validation)
    figures["stock_before"] = trainer.evaluate()["eval_loss"]
    trainer.train()
    figures["stock"] = trainer.evaluate()["eval_loss"]
    figures["difference"] = figures["stock"] - figures["ours"]
    figures["position_table_norm"] = float(np.linalg.norm(stock.vit.embeddings.position_embeddings.detach().numpy()))
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
