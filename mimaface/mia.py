"""Motion-identity modulation: the source's appearance and the motion become context tokens.

Two forms. `ReleasedMIA` is what the official checkpoints hold: a token for each signal beside the
source's CLIP tokens, mixed by self-attention and averaged over the clip. `PaperMIA` is what the
paper describes (arXiv 2409.15179, section 3): patch tokens attend to expression, pose and gaze;
its tokens differ from frame to frame. Sessions in a batch never mix.
"""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from mimaface.config import MIAConfig
from mimaface.types import GAZE, ROTATION, TRANSLATION, signal_sizes

TEXTURE, LIGHTING = 80, 27  # coefficients of the source on the official face model


class ReleasedMIA(nn.Module):
    """The checkpoints' form: 7 signal tokens, then the 257 CLIP tokens."""

    def __init__(self, config: MIAConfig, *, source_width: int, identity_features: int) -> None:
        """Build it without weights, for source tokens [.., D'] and identities [.., I]."""
        super().__init__()
        features = {
            "identity": identity_features,
            "gaze": GAZE,
            "expression": config.expression,
            "texture": TEXTURE,
            "lighting": LIGHTING,
            "rotation": ROTATION,
            "translation": TRANSLATION,
            "source": source_width,
        }
        self.project = nn.ModuleDict(
            {name: nn.Linear(count, config.width) for name, count in features.items()}
        )
        self.blocks = nn.ModuleList(
            ReleasedBlock(config.width, config.heads) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self._signal_sizes = signal_sizes(config.expression)

    def forward(
        self, source: Tensor, identity: Tensor, coefficients: Tensor, signals: Tensor
    ) -> Tensor:
        """Return the context tokens, the same for every frame: their mean over the clip.

        Args:
            source: [B, 257, D'], CLIP's tokens, the class token first.
            identity: [B, I].
            coefficients: [B, 107], texture and lighting of the source.
            signals: [B, F, E + 10], expression, rotation, translation and gaze of every frame.

        Returns:
            [B, F, 264, D].
        """
        tokens = self.per_frame(source, identity, coefficients, signals).mean(dim=1, keepdim=True)
        return tokens.expand(-1, signals.shape[1], -1, -1)

    def per_frame(
        self, source: Tensor, identity: Tensor, coefficients: Tensor, signals: Tensor
    ) -> Tensor:
        """Return the tokens of each frame [B, F, 264, D], before the mean over the clip."""
        expression, rotation, translation, gaze = torch.split(signals, self._signal_sizes, dim=-1)
        texture, lighting = torch.split(coefficients, [TEXTURE, LIGHTING], dim=-1)
        frames = signals.shape[1]
        by_name = {
            "identity": repeat(identity, "b i -> b f i", f=frames),
            "gaze": gaze,
            "expression": expression,
            "texture": repeat(texture, "b i -> b f i", f=frames),
            "lighting": repeat(lighting, "b i -> b f i", f=frames),
            "rotation": rotation,
            "translation": translation,
        }
        single = torch.stack(
            [self.project[name](values) for name, values in by_name.items()], dim=2
        )
        patches = repeat(self.project["source"](source), "b l d -> b f l d", f=frames)
        tokens = rearrange(torch.cat([single, patches], dim=2), "b f l d -> (b f) l d")
        for block in self.blocks:
            tokens = block(tokens)
        return rearrange(self.norm(tokens), "(b f) l d -> b f l d", f=frames)


class ReleasedBlock(nn.Module):
    """A pre-norm transformer block over tokens [B, L, D]: no positions, no mask."""

    def __init__(self, width: int, heads: int) -> None:
        """Build it without weights."""
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * width)
        self.to_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self._heads = heads

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens [B, L, D], mixed."""
        query, key, value = rearrange(
            self.to_qkv(self.attention_norm(tokens)),
            "b l (qkv heads d) -> qkv b heads l d",
            qkv=3,
            heads=self._heads,
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.to_out(rearrange(attended, "b heads l d -> b l (heads d)"))
        out: Tensor = tokens + self.mlp(self.mlp_norm(tokens))
        return out


class PaperMIA(nn.Module):
    """The paper's form: the class token passes, the patch tokens attend to the motion."""

    def __init__(self, config: MIAConfig, *, source_width: int) -> None:
        """Build it without weights, for source tokens [.., D']."""
        super().__init__()
        features = {"expression": config.expression, "pose": ROTATION + TRANSLATION, "gaze": GAZE}
        self.project = nn.ModuleDict(
            {name: nn.Linear(count, source_width) for name, count in features.items()}
        )
        self.modulations = nn.ModuleList(
            MotionModulation(source_width, config.heads) for _ in range(config.layers)
        )
        self.adapter = nn.Sequential(
            nn.LayerNorm(source_width),
            nn.Linear(source_width, 2 * config.width),
            nn.GELU(),
            nn.Linear(2 * config.width, config.width),
        )
        self._signal_sizes = signal_sizes(config.expression)

    def forward(
        self, source: Tensor, identity: Tensor, coefficients: Tensor, signals: Tensor
    ) -> Tensor:
        """Return the context tokens of every frame.

        Args:
            source: [B, L, D'], the class token first; training shapes it by identity.
            identity: not read: the class token is the identity here.
            coefficients: not read.
            signals: [B, F, E + 10], expression, rotation, translation and gaze of every frame.

        Returns:
            [B, F, L, D].
        """
        del identity, coefficients
        frames = signals.shape[1]
        expression, rotation, translation, gaze = torch.split(signals, self._signal_sizes, dim=-1)
        by_name = {
            "expression": expression,
            "pose": torch.cat([rotation, translation], dim=-1),
            "gaze": gaze,
        }
        motion = torch.stack(
            [self.project[name](values) for name, values in by_name.items()], dim=2
        )
        motion = rearrange(motion, "b f s d -> (b f) s d")
        tokens = repeat(source, "b l d -> (b f) l d", f=frames)
        class_token, patches = torch.split(tokens, [1, source.shape[1] - 1], dim=1)
        for modulation in self.modulations:
            patches = modulation(patches, motion)
        tokens = self.adapter(torch.cat([class_token, patches], dim=1))
        return rearrange(tokens, "(b f) l d -> b f l d", f=frames)


class MotionModulation(nn.Module):
    """Cross-attention of patch tokens to motion tokens, added to the patch tokens."""

    def __init__(self, width: int, heads: int) -> None:
        """Build it without weights."""
        super().__init__()
        self.patch_norm = nn.LayerNorm(width)
        self.motion_norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, patches: Tensor, motion: Tensor) -> Tensor:
        """Return the modulated patch tokens [B, L, D]; motion is [B, S, D]."""
        context = self.motion_norm(motion)
        change, _ = self.attention(self.patch_norm(patches), context, context, need_weights=False)
        return patches + change
