"""From encoder frames and speaker vectors to the LLM's input space.

Audio: two Transformer layers at the encoder's width, then a convolution whose kernel is its stride, to the LLM's width.
Speaker: one linear layer. As in the paper; width and stride are settings. So is the embedding of time, which is not in
the paper: it tells the LLM how late in the recording a position is heard.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pipeline.frames import position_seconds
from pipeline.model.host_to_device import within
from shards.errors import ModelError


class TransformerLayer(nn.Module):
    """Pre-norm self-attention and feed-forward.

    Every weight is used through the ``forward`` of the module that owns it, as ZeRO-3 expects;
    ``nn.TransformerEncoderLayer`` reaches into its attention's output layer.
    """

    def __init__(self, width: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, ffn), nn.Linear(ffn, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(A, F, width) and a (A, 1, 1, F) mask, true where a frame is valid → (A, F, width)."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        rate = self.dropout if self.training else 0.0
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=rate)
        x = x + self._drop(self.out(attended.transpose(1, 2).flatten(2)))
        return x + self._drop(self.down(self._drop(functional.gelu(self.up(self.norm2(x))))))

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training)


class StrideConv(nn.Conv1d):
    """A convolution whose kernel is its stride, computed as a matrix product. Its weights are a Conv1d's."""

    def forward(self, x: Tensor) -> Tensor:
        """(A, F, width), F a multiple of the stride → (A, F / stride, output): the channels last."""
        weight = self.weight.transpose(1, 2).flatten(1)  # (output, stride × width), as x in memory
        return functional.linear(x.reshape(x.shape[0], -1, weight.shape[1]), weight, self.bias)


class TimeEmbedding(nn.Embedding):
    """Seconds to LLM inputs: a learned vector for each digit in each place of the time in tenths of a second, added up.

    The vectors start at zero, and change nothing in a model that continues a run without them.
    """

    PLACES = (1000, 100, 10, 1)  # tenths of a second: times begin again after 1,000 s

    def __init__(self, output: int) -> None:
        super().__init__(10 * len(self.PLACES), output)
        nn.init.zeros_(self.weight)

    def forward(self, seconds: Tensor) -> Tensor:
        """(P,) float32 seconds, negative where no time is known → (P, output), zeros there."""
        places = torch.tensor(self.PLACES, device=seconds.device)
        digits = (10 * seconds[:, None] + 1e-3).long() // places % 10  # 0.3 s in fp32 are 3 tenths
        rows = digits + 10 * torch.arange(len(places), device=seconds.device)
        return super().forward(rows).sum(1) * (seconds >= 0)[:, None]


class AudioProjector(nn.Module):
    """Encoder frames to LLM positions."""

    def __init__(
        self,
        width: int,
        output: int,
        *,
        layers: int,
        heads: int,
        ffn: int,
        dropout: float,
        stride: int,
        time_embedding: bool = False,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ModelError(f"projector.heads is {heads}; it must divide the encoder's width {width}")
        self.stride = stride
        self.layers = nn.ModuleList(TransformerLayer(width, heads, ffn, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.conv = StrideConv(width, output, stride, stride)
        self.time = TimeEmbedding(output) if time_embedding else None
        self.activation_checkpointing = False

    def forward(self, frames: Tensor, lengths: Sequence[int], starts: Sequence[float] | None = None) -> Tensor:
        """(A, F, width), A numbers of frames → (P, output): the positions of all audios, one after the other.

        An audio of n frames makes ceil(n / stride) positions; the last one may see zeros beyond the audio's end.

        Args:
            starts: seconds from the start of its recording at which each audio begins; negative: unknown; None: all 0.
        """
        valid = within(lengths, frames.shape[1], frames.device)
        mask = valid[:, None, None, :]
        x = frames
        for layer in self.layers:
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, mask, use_reentrant=False)
            else:
                x = layer(x, mask)
        x = self.norm(x) * valid.unsqueeze(-1)
        x = self.conv(functional.pad(x, (0, 0, 0, -x.shape[1] % self.stride)))
        rows = [-(-n // self.stride) for n in lengths]
        positions = torch.cat([x[i, :n] for i, n in enumerate(rows)])
        if self.time is None:
            return positions
        of_rows = zip(rows, starts or [0.0] * len(rows), strict=True)
        middles = [second for n, start in of_rows for second in position_seconds(n, start, self.stride)]
        return positions + self.time(torch.tensor(middles, device=positions.device)).to(positions.dtype)


class SpeakerProjector(nn.Linear):
    """(R, dim) speaker vectors → (R, output), one LLM position each."""
