"""Every operator of the op table through its options: a line each.

`x` is an image (N, 4, 6, 6), `t` tokens (N, 5, 8), `v` a vector (N, 8), `b` a boolean (N, 5, 8), `i` indices (N, 5).
`m` has `LAYERS` and `TENSORS`. INTEGER is what must become integers; FLOAT what must stay float, and say so.
"""

from __future__ import annotations

import torch

from tests.endtoend.operators_structures import STRUCTURES
from tests.endtoend.operators_values import VALUES

LAYERS: dict[str, str] = {
    "conv_same": "nn.Conv2d(4, 6, (2, 3), padding='same', dilation=(1, 2))",
    "conv_valid": "nn.Conv2d(4, 6, 3, padding='valid', stride=2)",
    "conv_bare": "nn.Conv2d(4, 8, 3, stride=(2, 1), padding=(1, 2), dilation=(2, 1), groups=2, bias=False)",
    "conv1": "nn.Conv1d(5, 6, 3, padding='same')",
    "up": "nn.ConvTranspose2d(4, 6, 3, stride=(2, 3), padding=1, output_padding=(1, 2), groups=2)",
    "up1": "nn.ConvTranspose1d(5, 4, 3, stride=2, output_padding=1, dilation=2, bias=False)",
    "linear": "nn.Linear(8, 3)",
    "bare": "nn.Linear(8, 3, bias=False)",
    "norm": "nn.LayerNorm(8)",
    "norm_bare": "nn.LayerNorm(8, elementwise_affine=False, eps=0.5)",
    "norm_no_bias": "nn.LayerNorm(8, bias=False)",
    "batch": "nn.BatchNorm2d(4, eps=0.1)",
    "batch_bare": "nn.BatchNorm2d(4, affine=False)",
    "pair": "nn.Bilinear(8, 8, 3)",
    "volume": "nn.Conv3d(2, 2, (2, 3, 2), padding='same')",
    "volume_bare": "nn.Conv3d(2, 4, (2, 3, 1), (1, 2, 1), (1, 0, 2), (1, 2, 1), 2, bias=False)",
    "volume_up": "nn.ConvTranspose3d(2, 4, (2, 3, 1), (2, 1, 2), (1, 0, 0), (1, 0, 1), 2, True, (1, 2, 1))",
    "batch3": "nn.BatchNorm3d(2)",
    "table": "nn.Embedding(7, 4, padding_idx=2)",
    "lstm": "nn.LSTM(8, 5, 2, batch_first=True, bidirectional=True)",
    "lstm_bare": "nn.LSTM(8, 4, bias=False, batch_first=True)",
    "lstm_small": "nn.LSTM(8, 6, 2, proj_size=3, batch_first=True, bidirectional=True)",
    "gru": "nn.GRU(8, 6, batch_first=True, bidirectional=True)",
    "gru_time": "nn.GRU(8, 3)",
    "rnn": "nn.RNN(8, 4, 2, batch_first=True)",
    "rnn_relu": "nn.RNN(8, 4, batch_first=True, nonlinearity='relu', bidirectional=True)",
}

TENSORS: dict[str, torch.Tensor] = {
    "row": torch.arange(-4.0, 4.0) / 4,
    "column": torch.arange(-2.0, 2.0).reshape(4, 1, 1) / 2,
    "weight": torch.eye(8)[:3] - 0.25,
    "seven": torch.arange(28.0).reshape(7, 4) / 28 - 0.25,
    "square": torch.arange(64.0).reshape(8, 8) / 64 - 0.5,
}

INTEGER = VALUES | STRUCTURES

FLOAT: tuple[str, ...] = (
    "torch.div(x, 2, rounding_mode='floor')",
    "torch.div(x, 0.5, rounding_mode='trunc')",
    "x // 0.5",
    "x.double() * 2",
    "x.sum(-1, dtype=torch.float64)",
    "x.mean(-1, dtype=torch.float64)",
    "F.softmax(t, -1, dtype=torch.float64)",
    "F.linear(v, torch.special.i0(t[0, :3]), m.row[:3])",
    "F.linear(v, m.weight, torch.special.i0(v[0, :3]))",
    "torch.cumsum(t, -2)",
    "torch.special.i0(x)",
    "torch.atan2(x, x.flip(1))",
    "torch.where(t == t.flip(1), t, 0.0)",
    "x.prod(-1)",
)  # fmt: skip
