"""QFormerCaptioner with a GPT-Neo, written down layer by layer with nothing but torch's functions."""

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear, softmax

from vlmkit import QFormerCaptioner


class PlainForward:
    """Logits `(B, T, vocabulary)` from the tokens of a vision tower `(B, N, vision width)` and `input_ids (B, T)`."""

    def __init__(self, model: QFormerCaptioner):
        self.weights = model.state_dict()
        self.config = model.config

    def __call__(self, vision_features: Tensor, input_ids: Tensor) -> Tensor:
        text = self.gpt_neo(input_ids)
        queries = self.qformer(self.linear("model.connector.vision_projection.layers.0", vision_features))
        name = "model.cross_attention"
        attended = self.attend(f"{name}.attention", self.norm(f"{name}.norm", text, 1e-5), queries, queries)
        text = text + self.weights[f"{name}.scale"] * attended
        text = text + self.feed_forward(f"{name}.feed_forward", text, 1e-5)
        return text @ self.weights["model.language_model.wte.weight"].T  # the head is tied

    def qformer(self, image: Tensor) -> Tensor:
        keys, values = (self.linear(f"model.connector.{part}_proj", image) for part in ("key", "value"))
        queries = torch.cat(
            [self.weights[f"model.connector.{part}"] for part in ("global_token", "query_tokens")], dim=1
        )
        queries = queries.repeat(len(image), 1, 1)
        for row in range(self.config.num_qformer_layers):
            name = f"model.connector.layers.{row}"
            normed = self.norm(f"{name}.self_attention.norm", queries, 1e-6)
            queries = queries + self.attend(f"{name}.self_attention.attention", normed, normed, normed)
            queries = queries + self.feed_forward(f"{name}.self_feed_forward", queries, 1e-6)
            normed = self.norm(f"{name}.cross_attention.norm", queries, 1e-6)
            queries = queries + self.attend(f"{name}.cross_attention.attention", normed, keys, values)
            queries = queries + self.feed_forward(f"{name}.cross_feed_forward", queries, 1e-6)
        return queries

    def gpt_neo(self, input_ids: Tensor) -> Tensor:
        """Every second layer sees the last `window_size` tokens only, and no scores are scaled."""
        name, text = "model.language_model", self.config.text_config
        length = input_ids.shape[1]
        states = self.weights[f"{name}.wte.weight"][input_ids] + self.weights[f"{name}.wpe.weight"][:length]
        distance = torch.arange(length)[:, None] - torch.arange(length)
        for row, kind in enumerate(text.attention_layers):
            visible = (distance >= 0) & ((distance < text.window_size) | torch.tensor(kind == "global"))
            block = f"{name}.h.{row}"
            normed = self.norm(f"{block}.ln_1", states, text.layer_norm_epsilon)
            states = states + self.gpt_neo_attention(f"{block}.attn.attention", normed, visible)
            normed = self.norm(f"{block}.ln_2", states, text.layer_norm_epsilon)
            hidden = gelu(self.linear(f"{block}.mlp.c_fc", normed), approximate="tanh")
            states = states + self.linear(f"{block}.mlp.c_proj", hidden)
        return self.norm(f"{name}.ln_f", states, text.layer_norm_epsilon)

    def gpt_neo_attention(self, name: str, states: Tensor, visible: Tensor) -> Tensor:
        outputs = []
        parts = [linear(states, self.weights[f"{name}.{part}_proj.weight"]) for part in "qkv"]
        for query, key, value in zip(*(part.chunk(self.config.text_config.num_heads, dim=-1) for part in parts)):  # noqa: B905
            scores = (query @ key.transpose(1, 2)).masked_fill(~visible, -torch.inf)
            outputs.append(softmax(scores, dim=-1) @ value)
        return self.linear(f"{name}.out_proj", torch.cat(outputs, dim=-1))

    def attend(self, name: str, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        outputs = []
        inputs = zip("qkv", (queries, keys, values), strict=True)
        parts = [self.linear(f"{name}.{part}_proj", states) for part, states in inputs]
        for query, key, value in zip(*(part.chunk(self.config.num_attention_heads, dim=-1) for part in parts)):  # noqa: B905
            scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
            outputs.append(softmax(scores, dim=-1) @ value)
        return self.linear(f"{name}.out_proj", torch.cat(outputs, dim=-1))

    def feed_forward(self, name: str, states: Tensor, eps: float) -> Tensor:
        hidden = self.linear(f"{name}.mlp.fc1", self.norm(f"{name}.norm", states, eps))
        return self.linear(f"{name}.mlp.fc2", gelu(hidden))

    def norm(self, name: str, states: Tensor, eps: float) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return layer_norm(states, weight.shape, weight, bias, eps)

    def linear(self, name: str, states: Tensor) -> Tensor:
        return linear(states, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])
