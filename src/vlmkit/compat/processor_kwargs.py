"""Private parts of `transformers.ProcessorMixin`."""

from typing import Any

from transformers import ProcessorMixin


def images_kwargs(processor: ProcessorMixin, **kwargs: Any) -> dict[str, Any]:
    """Return the keywords of a processor's call that go to its image processor, defaults included."""
    return processor._merge_kwargs(**kwargs)["images_kwargs"]
