"""The character model of the Shakespeare experiments."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fedsim.errors import require
from fedsim.models.settings import positive_int


class CharLSTM(nn.Module):
    """Next-character model (McMahan et al. 2017, LEAF): embedding, stacked LSTM, and a dense layer
    on the last position. Tokens int64 [B, T] to logits [B, outputs].

    vocabulary: number of different tokens (given by the data); embedding: size of a token's vector;
    hidden: units of each LSTM layer; layers: LSTM layers.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        outputs: int,
        vocabulary: int | None = None,
        embedding: int = 8,
        hidden: int = 256,
        layers: int = 2,
    ) -> None:
        shape = list(input_shape)
        require(
            len(shape) == 1 and vocabulary is not None,
            "model",
            "CharLSTM",
            f"takes tokens [length], and the data's inputs are {shape}",
        )
        super().__init__()
        self.embedding = nn.Embedding(
            positive_int("CharLSTM.vocabulary", vocabulary),
            positive_int("CharLSTM.embedding", embedding),
        )
        self.lstm = nn.LSTM(
            embedding,
            positive_int("CharLSTM.hidden", hidden),
            positive_int("CharLSTM.layers", layers),
            batch_first=True,
        )
        self.head = nn.Linear(hidden, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(tokens))
        return self.head(states[:, -1])
