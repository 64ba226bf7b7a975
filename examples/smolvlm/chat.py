"""Chat about images in the terminal; answers appear word by word.

    python examples/smolvlm/chat.py --model runs/smolvlm/merged --images photo.jpg

Every image is encoded once, and every token of the conversation is read once, however many turns it has. A line
`/image photo.jpg` shows another image with the next question; an empty line, or the end of the input, ends the chat.
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
    """Which model, and the images of the first question."""

    model: str = field(metadata={"help": "folder or hub id of a SmolVLM"})
    images: list[str] = field(default_factory=list, metadata={"help": "files or URLs"})
    do_sample: bool = field(default=False, metadata={"help": "draw words, as the model's generation_config tells"})
    max_new_tokens: int = 100


def main() -> None:
    """Ask, answer, remember."""
    [arguments] = parse_arguments(ChatArguments)
    model = AutoModel.from_pretrained(arguments.model).to("cuda" if torch.cuda.is_available() else "cpu").eval()
    chat = Chat(model, AutoProcessor.from_pretrained(arguments.model))
    images = list(arguments.images)
    if absent := [image for image in images if not is_there(image)]:
        raise SystemExit(f"there is no image file {absent[0]}")
    while line := read("You: "):
        if line.startswith("/image "):
            image = line.removeprefix("/image ").strip()
            print(f"the next question shows {image}" if is_there(image) else f"there is no image file {image}")
            images += [image] * is_there(image)
            continue
        print("SmolVLM: ", end="", flush=True)
        chat.ask(line, images, do_sample=arguments.do_sample, max_new_tokens=arguments.max_new_tokens)
        images = []


def is_there(image: str) -> bool:
    """Whether it is an existing file, or a URL."""
    return image.startswith(("http://", "https://")) or Path(image).is_file()


def read(prompt: str) -> str:
    """A line that the user types; nothing at the end of the input."""
    try:
        return input(prompt).strip()
    except EOFError:
        return ""


class Chat:
    """A conversation, and what the model remembers of it."""

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin):
        self.model, self.processor = model, processor
        self.messages: list[dict] = []
        self.cache = DynamicCache(config=model.config.get_text_config())
        self.seen = torch.zeros(1, 0, dtype=torch.long, device=model.device)

    def ask(self, question: str, images: Sequence[str] = (), **generation: object) -> str:
        """Print the answer while it is generated, and return it."""
        shown = [{"type": "image", "image": image} for image in images]
        self.messages.append({"role": "user", "content": [*shown, {"type": "text", "text": question}]})
        inputs = self.processor.apply_chat_template(
            self.messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(self.model.device, self.model.dtype)
        self.forget_other_than(inputs["input_ids"])
        streamer = TextStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.seen = self.model.generate(**inputs, cache=self.cache, streamer=streamer, **generation)
        answer = self.processor.decode(self.seen[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        self.messages.append(assistant_message(answer.strip() or "..."))  # a turn without text is refused
        return answer

    def forget_other_than(self, input_ids: Tensor) -> None:
        """Keep of the cache what the new prompt begins with: an answer, read again, can have other tokens."""
        known = self.cache.get_seq_length()
        length = min(known, input_ids.shape[1])
        is_same = input_ids[:, :length] == self.seen[:, :length]
        if surplus := known - int(is_same.cumprod(dim=1).sum()):
            self.cache.crop(-surplus)


if __name__ == "__main__":
    main()
