"""What the two further losses of [`QFormerAligner`] read from queries and text."""

import torch.nn.functional as F
from torch import Tensor, nn

from vlmkit.distributed import mean_over_processes


class MatchingHead(nn.Module):
    """Tells whether queries have seen the image of the text that they were read with.

    Args:
        hidden_size: width D of the queries.
    """

    def __init__(self, hidden_size: int):
        super().__init__()
        self.score = nn.Linear(hidden_size, 1)

    def forward(self, queries: Tensor) -> Tensor:
        """From queries `(B, Q, D)` to logits `(B,)`, positive for a match."""
        return self.score(queries.mean(dim=1)).squeeze(1)


class CaptioningHead(nn.Module):
    """Learns to predict the next token of a text, by the token embeddings.

    Args:
        hidden_size: width D of the text's states and of the token embeddings.
        eps: of the layer norm.

    References:
        Devlin et al., "BERT" (arXiv:1810.04805): the layers before the token embeddings are those of its head.
    """

    def __init__(self, hidden_size: int, eps: float):
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size, eps=eps)

    def forward(self, text_states: Tensor, input_ids: Tensor, attention_mask: Tensor, token_table: Tensor) -> Tensor:
        """The loss of predicting each token of texts from the state of the one before it.

        Args:
            text_states: `(B, T, D)`, each of which knows no later token.
            input_ids: `(B, T)`, padded on either side.
            attention_mask: `(B, T)`, 1 for tokens and 0 for padding.
            token_table: `(vocabulary, D)`, the token embeddings.

        Returns:
            A float32 scalar, the mean over all processes' tokens but the first of each text; 0 if there are no others.
        """
        predicts = (attention_mask[:, :-1] * attention_mask[:, 1:]).bool()
        states = self.norm(F.gelu(self.dense(text_states[:, :-1][predicts])))
        logits = F.linear(states, token_table).float()
        return mean_over_processes(F.cross_entropy(logits, input_ids[:, 1:][predicts], reduction="none"))
