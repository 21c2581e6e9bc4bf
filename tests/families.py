"""Six families of networks made small, in float64, each with a batch of 20 and what was moved."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from tangents.functional import Params
from tests.cases import normal

N, VOCABULARY, LENGTH = 20, 7, 4


class Block(nn.Module):
    """Two convolutions with batch norm, and the way around them."""

    def __init__(self, channels: int):
        super().__init__()
        self.a, self.b = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in "ab")
        self.norm_a, self.norm_b = (nn.BatchNorm2d(channels) for _ in "ab")

    def forward(self, h):
        return F.relu(h + self.norm_b(self.b(F.relu(self.norm_a(self.a(h))))))


def resnet() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), Block(3),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))  # fmt: skip
    for name, buffer in net.named_buffers():
        if "running" in name:
            buffer.add_(torch.rand(buffer.shape))
    return net


class ViT(nn.Module):
    """Patches, a class token, positions, and blocks of attention."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.patch = nn.Conv2d(1, width, 3, stride=3)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.place = nn.Parameter(torch.randn(1, 5, width))
        self.block = nn.TransformerEncoderLayer(width, 2, 12, activation="gelu", batch_first=True,
                                                norm_first=True)  # fmt: skip
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x):
        h = self.patch(x).flatten(2).mT
        h = torch.cat([self.token.expand(len(h), -1, -1), h], 1) + self.place
        return self.head(self.norm(self.block(h))[:, 0])


class Bert(nn.Module):
    """Tokens with a mask of padding, in a dict; the mean over what is none."""

    def __init__(self, width: int = 6):
        super().__init__()
        self.words, self.place = nn.Embedding(VOCABULARY, width), nn.Embedding(LENGTH, width)
        layer = nn.TransformerEncoderLayer(width, 2, 8, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.pool, self.head = nn.Linear(width, width), nn.Linear(width, 2)

    def forward(self, x):
        mask = x["attention_mask"].bool()
        h = self.words(x["input_ids"]) + self.place.weight
        h = self.encoder(h, src_key_padding_mask=~mask).masked_fill(~mask[..., None], 0).sum(1)
        return self.head(torch.tanh(self.pool(h / mask.sum(1, keepdim=True))))


class GPT(nn.Module):
    """Causal attention, the table of words read out by itself: outputs (n, T, V)."""

    def __init__(self, width: int = 4):
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, width)
        self.place = nn.Parameter(torch.randn(LENGTH, width))
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.out, self.mlp = nn.Linear(width, width), nn.Linear(width, width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens):
        h = self.words(tokens) + self.place
        q, k, v = (t.unsqueeze(1) for t in self.qkv(self.norm(h)).chunk(3, -1))
        h = h + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).squeeze(1))
        return self.head(h + F.gelu(self.mlp(h)))


class LSTM(nn.Module):
    """What a recurrent layer says after the last word."""

    def __init__(self, width: int = 5):
        super().__init__()
        self.words, self.cell = nn.Embedding(VOCABULARY, 3), nn.LSTM(3, width, batch_first=True)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(width, 3)

    def forward(self, tokens):
        return self.head(self.drop(self.cell(self.words(tokens))[0][:, -1]))


class LoRA(nn.Module):
    """A linear layer that stays, and a product of low rank that is trained."""

    def __init__(self, base: nn.Linear, rank: int = 2):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_a = nn.Parameter(torch.randn(rank, base.in_features))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, h):
        return self.base(h) + h @ self.lora_a.mT @ self.lora_b.mT


def lora() -> nn.Module:
    return nn.Sequential(LoRA(nn.Linear(4, 6)), nn.Tanh(), LoRA(nn.Linear(6, 6)), nn.Tanh(),
                         nn.Linear(6, 2))  # fmt: skip


def images() -> Tensor:
    return normal(N, 1, 6, 6, seed=1)


def tokens() -> Tensor:
    return torch.randint(VOCABULARY, (N, LENGTH), generator=Generator().manual_seed(1))


def padded() -> dict[str, Tensor]:
    length = torch.randint(1, LENGTH + 1, (N, 1), generator=Generator().manual_seed(2))
    return {"input_ids": tokens(), "attention_mask": (torch.arange(LENGTH) < length).long()}


class Family(NamedTuple):
    name: str
    build: Callable[[], nn.Module]
    inputs: Callable
    patterns: tuple[str, ...] = ()

    def made(self, seed: int = 0) -> tuple[nn.Module, Params, Params, Tensor | dict]:
        """The network in evaluation, its weights before and after, and a batch."""
        torch.manual_seed(seed)
        module = self.build().double().eval()
        before = {k: v.clone() for k, v in module.state_dict().items()}
        moved = {k for k, v in module.named_parameters() if v.requires_grad}
        after = {k: v + 0.2 * normal(*v.shape, seed=i) if k in moved else v
                 for i, (k, v) in enumerate(before.items())}  # fmt: skip
        return module, before, after, self.inputs()


FAMILIES = (
    Family("resnet", resnet, images),
    Family("vit", ViT, images),
    Family("bert", Bert, padded),
    Family("gpt", GPT, tokens),
    Family("lstm", LSTM, tokens),
    Family("lora", lora, lambda: normal(N, 4), ("*lora*",)),
)
