"""The method in one file: radiographs of any size -> bins -> masked autoencoder -> reconstruction -> linear probe.

    python scripts/minimal.py

Plain PyTorch. `hf_radmae` computes the same loss with the same weights (a test compares them).
"""

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor, nn
from torch.nn import functional as F

from hf_radmae.sources.phantom import generate

PATCH, MAX_TOKENS, BINS, MASK_RATIO, BASE = 8, 64, 5, 0.75, 8  # BASE: rows and columns that positions are stored for


# 1. Bins. Images of similar shape share one, so that they can be batched: none is thrown away, and none is padded.
def fit_bins(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sizes (N, 2) in pixels -> shapes (BINS, 2) in patches of at most MAX_TOKENS, and the bin (N,) of each image."""
    aspect = np.log(sizes[:, 0] / sizes[:, 1])
    centres = np.quantile(aspect, (np.arange(BINS) + 0.5) / BINS)
    rows = np.floor(np.sqrt(MAX_TOKENS * np.exp(centres))).clip(1, MAX_TOKENS)
    return np.stack([rows, MAX_TOKENS // rows], axis=1).astype(int), np.abs(aspect[:, None] - centres).argmin(axis=1)


def to_tensor(pixels: np.ndarray, shape: np.ndarray) -> Tensor:
    """Pixels of any depth -> (1, rows * PATCH, columns * PATCH), grey values 0..1."""
    image = torch.from_numpy(pixels.astype(np.float32))
    image = (image - image.min()) / (image.max() - image.min()).clamp(min=1)
    return F.interpolate(image[None, None], size=tuple(shape * PATCH), mode="bilinear", antialias=True)[0]


# 2. The network: a transformer sees a quarter of the patches, a small one predicts the others (He et al., 2022).
def positions(width: int, rows: int, columns: int) -> Tensor:
    """Sines and cosines of a patch's place (rows * columns, width), interpolated from a square of BASE patches."""
    angles = torch.arange(BASE).outer(10000.0 ** -(torch.arange(width // 4) / (width // 4)))
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    table = torch.cat([axis.repeat(BASE, 1), axis.repeat_interleave(BASE, dim=0)], dim=1)
    square = table.T.reshape(1, width, BASE, BASE)
    return F.interpolate(square, size=(rows, columns), mode="bicubic").flatten(2)[0].T


def patchify(images: Tensor) -> Tensor:
    """(batch, 1, height, width) -> (batch, patches, PATCH * PATCH), row by row."""
    return F.unfold(images, PATCH, stride=PATCH).transpose(1, 2)


def transformer(width: int, layers: int, heads: int) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", 1e-12, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, layers, nn.LayerNorm(width, eps=1e-12), enable_nested_tensor=False)


class MAE(nn.Module):
    def __init__(self, width: int = 96, layers: int = 3, heads: int = 3, narrow: int = 48):
        super().__init__()
        self.embed, self.encoder = nn.Linear(PATCH**2, width), transformer(width, layers, heads)
        self.narrow, self.decoder = nn.Linear(width, narrow), transformer(narrow, 1, heads)
        self.predict = nn.Linear(narrow, PATCH**2)
        self.cls, self.mask = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.randn(narrow) * 0.02)

    def encode(self, images: Tensor, seen: Tensor | None = None) -> Tensor:
        """The CLS token, then the seen patches: (batch, 1 + seen, width); all of them where `seen` is None."""
        rows, columns = images.shape[2] // PATCH, images.shape[3] // PATCH
        tokens = self.embed(patchify(images)) + positions(self.embed.out_features, rows, columns)
        tokens = tokens if seen is None else tokens.gather(1, seen[..., None].expand(-1, -1, tokens.shape[2]))
        return self.encoder(torch.cat([self.cls.expand(len(images), 1, -1), tokens], dim=1))

    def forward(self, images: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Noise (batch, patches) -> loss, prediction (batch, patches, PATCH * PATCH), mask (1 where it was hidden)."""
        target = patchify(images)
        order = (torch.rand(target.shape[:2]) if noise is None else noise).argsort(dim=1)  # the first quarter is seen
        seen, place = int(order.shape[1] * (1 - MASK_RATIO)), order.argsort(dim=1)[..., None]
        tokens = self.narrow(self.encode(images, order[:, :seen]))
        hidden = self.mask.expand(len(images), order.shape[1] - seen, -1)
        patches = torch.cat([tokens[:, 1:], hidden], dim=1).gather(1, place.expand(-1, -1, len(self.mask)))
        table = positions(len(self.mask), images.shape[2] // PATCH, images.shape[3] // PATCH)
        prediction = self.predict(self.decoder(torch.cat([tokens[:, :1], patches + table], dim=1))[:, 1:])
        variance, mean = torch.var_mean(target, dim=2, keepdim=True)  # each patch is predicted at mean 0, variance 1
        error = (prediction - (target - mean) / (variance + 1e-6).sqrt()).square().mean(dim=2)
        mask = (place[..., 0] >= seen).float()
        return (error * mask).sum() / mask.sum(), prediction * (variance + 1e-6).sqrt() + mean, mask


# 3. What it learned: a linear classifier on frozen features, against the same on a network that learned nothing.
def probe(model: MAE, images: list[Tensor], labels: np.ndarray, train: np.ndarray) -> float:
    with torch.no_grad():
        tokens = [model.encode(image[None])[0, 1:] for image in images]
    features = torch.stack([torch.cat([t.mean(0), t.amax(0), t.std(0)]) for t in tokens]).numpy()
    features = (features - features[train].mean(0)) / (features[train].std(0) + 1e-6)
    found = RidgeClassifier(alpha=100.0, class_weight="balanced").fit(features[train], labels[train])
    return balanced_accuracy_score(labels[~train], found.predict(features[~train]))


def main(count: int = 400, epochs: int = 15, output: str = "minimal.png") -> dict[str, float]:
    torch.manual_seed(0)
    cohort = generate(count, scale=0.05)
    shapes, bins = fit_bins(np.array([(radiograph.height, radiograph.width) for radiograph in cohort]))
    images = [to_tensor(radiograph.pixels(), shapes[b]) for radiograph, b in zip(cohort, bins, strict=True)]
    labels, train = np.array([r.region for r in cohort]), np.array([r.patient % 4 > 0 for r in cohort])  # by patient
    model = MAE()
    scores = {"untrained": probe(model, images, labels, train)}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05)
    for epoch in range(epochs):
        losses, draw = [], np.random.default_rng(epoch)
        members = [draw.permutation(np.flatnonzero(train & (bins == b))) for b in range(BINS)]
        batches = [rows[i : i + 16] for rows in members for i in range(0, len(rows), 16)]  # each of one bin
        for k in torch.randperm(len(batches)).tolist():
            loss = model(torch.stack([images[i] for i in batches[k]]))[0]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        print(f"epoch {epoch + 1:2}: loss {np.mean(losses):.3f}")
    scores["pre-trained"] = probe(model, images, labels, train)
    image = images[int(np.flatnonzero(~train)[0])][None]
    _, prediction, mask = model.requires_grad_(False)(image)
    shown = patchify(image) * (1 - mask[..., None])
    panels = [patchify(image), shown, shown + prediction * mask[..., None]]
    picture = torch.cat([F.fold(p.mT, image.shape[2:], PATCH, stride=PATCH) for p in panels], dim=3)[0, 0].clamp(0, 1)
    Image.fromarray((picture * 255).byte().numpy()).save(output)
    print(f"balanced accuracy of the body region, unseen patients: {scores}; input, mask, reconstruction: {output}")
    return scores


if __name__ == "__main__":
    main()
