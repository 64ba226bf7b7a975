"""Ask questions about an image with the model of finetune_vlm_lora.py.

    python examples/quickstart/chat.py [IMAGE] [QUESTION] [--model runs/vlm]

Without an image, the question is about a drawn scene, which is saved as runs/scene.png.
"""

import argparse
from pathlib import Path

from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, TextStreamer

import vlmkit  # noqa: F401 (registers the models with the Auto classes)
from vlmkit.data import load_scenes, user_message

parser = argparse.ArgumentParser()
parser.add_argument("image", nargs="?", help="image file; a drawn scene by default")
parser.add_argument("question", nargs="?", default="What is in this picture?")
parser.add_argument("--model", default="runs/vlm")
arguments = parser.parse_args()

if arguments.image:
    image = Image.open(arguments.image)
else:
    image = load_scenes(num_train=1, num_test=1)["test"][0]["image"]
    Path("runs").mkdir(exist_ok=True)
    image.save("runs/scene.png")

model = AutoModelForImageTextToText.from_pretrained(arguments.model).eval()
processor = AutoProcessor.from_pretrained(arguments.model)
inputs = processor.apply_chat_template(
    [user_message(arguments.question, image=image)],
    add_generation_prompt=True,
    tokenize=True,
    return_dict=True,
    return_tensors="pt",
)
streamer = TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
model.generate(**inputs, max_new_tokens=50, streamer=streamer)
