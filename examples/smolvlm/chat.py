"""Chat about images in the terminal, with streamed answers.

    python examples/smolvlm/chat.py --model runs/smolvlm/merged --images photo.jpg

A key/value cache spans all turns, so every image and every token is processed only once. `/image photo.jpg` adds an
image to the next question. An empty line or the end of the input ends the chat.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModel, AutoProcessor, DynamicCache, PreTrainedModel, ProcessorMixin, TextStreamer

import vlmkit  # noqa: F401 (registers the Auto classes)
from vlmkit.data import assistant_message
from vlmkit.training import parse_arguments


@dataclass
class ChatArguments:
    """Model, decoding and images of the first question."""

    model: str = field(metadata={"help": "Folder or hub id of a SmolVLM."})
    images: list[str] = field(default_factory=list, metadata={"help": "Image files or URLs."})
    do_sample: bool = field(
        default=False, metadata={"help": "Sample with the settings of the model's generation_config."}
    )
    max_new_tokens: int = 100


def main() -> None:
    """Read questions and print answers until the chat ends."""
    [arguments] = parse_arguments(ChatArguments)
    model = AutoModel.from_pretrained(arguments.model).to("cuda" if torch.cuda.is_available() else "cpu").eval()
    chat = Chat(model, AutoProcessor.from_pretrained(arguments.model))
    images = list(arguments.images)
    if missing := [image for image in images if not exists(image)]:
        raise SystemExit(f"The image file {missing[0]} does not exist.")
    while line := read("You: "):
        if line.startswith("/image "):
            image = line.removeprefix("/image ").strip()
            print(
                f"added to the next question: {image}" if exists(image) else f"The image file {image} does not exist."
            )
            images += [image] * exists(image)
            continue
        print("SmolVLM: ", end="", flush=True)
        chat.ask(line, images, do_sample=arguments.do_sample, max_new_tokens=arguments.max_new_tokens)
        images = []


def exists(image: str) -> bool:
    """Return whether `image` is an existing file or a URL."""
    return image.startswith(("http://", "https://")) or Path(image).is_file()


def read(prompt: str) -> str:
    """Read a line from the user. Return an empty string at the end of the input."""
    try:
        return input(prompt).strip()
    except EOFError:
        return ""


class Chat:
    """Conversation with a model and its key/value cache.

    Args:
        model: SmolVLM that answers.
        processor: Processor of the model.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin):
        self.model, self.processor = model, processor
        self.messages: list[dict] = []
        self.cache = DynamicCache(config=model.config.get_text_config())
        self.cached_ids = torch.zeros(1, 0, dtype=torch.long, device=model.device)

    def ask(self, question: str, images: Sequence[str] = (), **generation: object) -> str:
        """Stream the answer to the terminal and return it."""
        image_parts = [{"type": "image", "image": image} for image in images]
        self.messages.append({"role": "user", "content": [*image_parts, {"type": "text", "text": question}]})
        inputs = self.processor.apply_chat_template(
            self.messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(self.model.device, self.model.dtype)
        self.crop_cache(inputs["input_ids"])
        streamer = TextStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.cached_ids = self.model.generate(**inputs, cache=self.cache, streamer=streamer, **generation)
        answer = self.processor.decode(self.cached_ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        self.messages.append(assistant_message(answer.strip() or "..."))  # messages must not be empty
        return answer

    def crop_cache(self, input_ids: Tensor) -> None:
        """Crop the cache to the tokens that the new prompt begins with.

        The tokens of a previous answer can change when its text is tokenized again.
        """
        num_cached = self.cache.get_seq_length()
        length = min(num_cached, input_ids.shape[1])
        is_same = input_ids[:, :length] == self.cached_ids[:, :length]
        if surplus := num_cached - int(is_same.cumprod(dim=1).sum()):
            self.cache.crop(-surplus)


if __name__ == "__main__":
    main()
