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

# Contained in the generic card that transformers writes.
_GENERIC_CARD = "This is the model card of a 🤗 transformers model that has been pushed on the Hub."


class CardMixin(UploadMixin):
    """Mixin of models that write a model card when they are saved, unless the folder contains one.

    Attributes:
        card_usage: Python code that loads and uses the model, with `{name}` in place of its Hub id.
        card_pipeline: Name of the pipeline of transformers that runs the model, or `None`.
    """

    card_usage: ClassVar[str]
    card_pipeline: ClassVar[str | None]
    _card_data: str | None = None
    _card_metrics: dict[str, float] | None = None

    def describe(self, data: str | None = None, metrics: dict[str, float] | None = None) -> None:
        """Set the training data and the metrics of the model card. Saving then overwrites an existing card.

        Args:
            data: Description of the training data, in a sentence.
            metrics: Metrics on held-out data, name to value.
        """
        self._card_data, self._card_metrics = data, metrics

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        """Save the model as `PreTrainedModel.save_pretrained` does, and write the model card."""
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
        """Return the number of parameters and the simple fields of the configuration."""
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
