"""Search images by text with the model of train_dual_encoder.py.

    python examples/quickstart/search_images.py "a red circle" [--images FOLDER] [--model runs/dual_encoder]

Without --images, the images are drawn scenes. The best five are written to runs/search.png.
"""

import argparse

import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

import vlmkit  # noqa: F401 (registers the models with AutoModel)
from vlmkit.analysis.caption_plots import caption_gallery
from vlmkit.data import find_image_files, load_scenes

parser = argparse.ArgumentParser()
parser.add_argument("query", nargs="?", default="a red circle")
parser.add_argument("--images", help="folder of images; drawn scenes by default")
parser.add_argument("--model", default="runs/dual_encoder")
arguments = parser.parse_args()

model, processor = AutoModel.from_pretrained(arguments.model).eval(), AutoProcessor.from_pretrained(arguments.model)
if arguments.images:
    images = [Image.open(file) for file in find_image_files([arguments.images])]
else:
    images = list(load_scenes(num_train=1, num_test=200)["test"]["image"])

with torch.no_grad():
    batches = [images[start : start + 64] for start in range(0, len(images), 64)]
    image_embeds = torch.cat(
        [model.get_image_features(**processor(images=batch, return_tensors="pt")).pooler_output for batch in batches]
    )
    text_embeds = model.get_text_features(**processor(text=[arguments.query], return_tensors="pt")).pooler_output
similarity = torch.nn.functional.cosine_similarity(text_embeds, image_embeds)
best = similarity.topk(5)
for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
    print(f"image {index}: {score:.2f}")
titles = [f"{score:.2f}" for score in best.values.tolist()]
caption_gallery([images[index] for index in best.indices.tolist()], titles, columns=5).savefig("runs/search.png")
