"""The model card that is saved with a model."""

import os
from pathlib import Path
from typing import Any, ClassVar

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from vlmkit.compat.uploads import UploadMixin

_CARD = """# {title}

{summary} Built with [vlmkit](https://github.com/vlmkit/vlmkit), a library of small vision-language models for
transformers.

## Usage

```bash
pip install vlmkit
```

```python
{usage}
```

Without `import vlmkit`, pass `trust_remote_code=True` to `from_pretrained`.

## Training data

{data}

## Metrics

{metrics}

## Model

| | |
|---|---|
{facts}
"""

# Marks the card that transformers writes when there is none.
_GENERIC_CARD = "This is the model card of a 🤗 transformers model that has been pushed on the Hub."


class CardMixin(UploadMixin):
    """For models: saving writes a model card, unless the folder holds one.

    Attributes:
        card_usage: Python lines that load and use the model, with `{name}` for its place.
        card_pipeline: the hub's task name; `None` if no pipeline of transformers runs the model.
    """

    card_usage: ClassVar[str]
    card_pipeline: ClassVar[str | None]
    _card_data: str | None = None
    _card_metrics: dict[str, float] | None = None

    def describe(self, data: str | None = None, metrics: dict[str, float] | None = None) -> None:
        """Tell what the model card cannot know by itself; from then on saving rewrites the card.

        Args:
            data: what the model was trained on, in a sentence.
            metrics: name to value on held-out data.
        """
        self._card_data, self._card_metrics = data, metrics

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        """Save as transformers does, and write the model card."""
        result = super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        if kwargs.get("is_main_process", True):
            self._write_card(save_directory, name=Path(save_directory).resolve().name)
        return result

    def prepare_upload(self, folder: str | os.PathLike, repo_id: str) -> None:
        """Replace the generic card that transformers writes into a folder that is about to be pushed."""
        self._write_card(folder, name=repo_id)

    def _write_card(self, folder: str | os.PathLike, name: str) -> None:
        path = Path(folder, "README.md")
        described = self._card_data is not None or self._card_metrics is not None
        if described or not path.exists() or _GENERIC_CARD in path.read_text(encoding="utf-8"):
            self._card(name).save(path)

    def _card(self, name: str) -> ModelCard:
        kind = type(self).__name__
        metrics = self._card_metrics or {}
        results = [
            EvalResult(
                task_type=self.card_pipeline or "other",
                dataset_type="custom",
                dataset_name=self._card_data or "unknown",
                metric_type=key,
                metric_value=round(value, 4),
            )
            for key, value in metrics.items()
        ]
        header = ModelCardData(
            library_name="transformers",
            tags=["vlmkit", self.config.model_type],  # type: ignore[attr-defined]
            pipeline_tag=self.card_pipeline,
            model_name=name if results else None,
            eval_results=results or None,
        )
        rows = [f"| {key} | {value:.4g} |" for key, value in metrics.items()]
        body = _CARD.format(
            title=name,
            summary=f"A `{kind}`: {(type(self).__doc__ or '').partition(chr(10))[0]}",
            usage=self.card_usage.format(name=name),
            data=self._card_data or "Not recorded.",
            metrics="\n".join(["| metric | value |", "|---|---|", *rows]) if rows else "Not recorded.",
            facts="\n".join(f"| {fact} | {value} |" for fact, value in self._facts().items()),
        )
        return ModelCard(f"---\n{header}\n---\n\n{body}")

    def _facts(self) -> dict[str, Any]:
        """Size, and the configuration's own plain fields."""
        parameters = list(self.parameters())  # type: ignore[attr-defined]
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        own = type(self.config).__annotations__  # type: ignore[attr-defined]
        return {
            "parameters": f"{sum(p.numel() for p in parameters):,}",
            "of these trained": f"{trained:,}",
            **{
                f"`{field}`": f"`{value}`"
                for field in own
                if isinstance(value := getattr(self.config, field), str | int | float)  # type: ignore[attr-defined]
            },
        }
