"""The names of weights in the files that `save_pretrained` writes.

transformers saves some backbones under the names of their published checkpoints, but `Trainer` does not translate them
when it resumes or loads the best checkpoint (huggingface/transformers#43701). Remove this module once it does.
"""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming


def with_module_names(model: PreTrainedModel, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict under the names that the weights have in the model.

    Args:
        model: Model that defines the names.
        state_dict: State dict with the names of the modules, or with those of a saved checkpoint.
    """
    own = model.state_dict().keys()
    if state_dict.keys() <= own:
        return dict(state_dict)
    renamings = [item for item in get_model_conversion_mapping(model) if isinstance(item, WeightRenaming)]
    return {name if name in own else _renamed(name, renamings): weight for name, weight in state_dict.items()}


def _renamed(name: str, renamings: list[WeightRenaming]) -> str:
    for renaming in renamings:
        name, _ = renaming.rename_source_key(name)
    return name
