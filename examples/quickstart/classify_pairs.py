"""Train a model that recognizes two images side by side, and predict the caption of a pair.

    python examples/quickstart/classify_pairs.py [--data CIFAR100_FOLDER] [--text MODEL]

Without --data, the images are drawn shapes in ten combinations of color and shape. MODEL embeds the captions once.
"""

import argparse

from datasets import ClassLabel, Dataset
from PIL import Image, ImageDraw
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, ByT5Tokenizer, Trainer, TrainingArguments

from vlmkit import PairedCifarAligner, PairedCifarAlignerConfig, PairedCifarAlignerProcessor
from vlmkit.data import ImagePairs, PairCollator, load_cifar100

parser = argparse.ArgumentParser()
parser.add_argument("--data", help="folder of CIFAR-100; drawn shapes by default")
parser.add_argument("--text", help="text encoder, such as sentence-transformers/all-MiniLM-L6-v2")
arguments = parser.parse_args()


def draw(label: int, row: int) -> Image.Image:
    """Draw a circle or a square in one of five colors at one of 64 positions."""
    image, left, top = Image.new("RGB", (32, 32), "white"), row % 8 * 2, row // 8 % 8 * 2
    pen = ImageDraw.Draw(image)
    (pen.ellipse if label % 2 else pen.rectangle)((left, top, left + 14, top + 14), fill=COLORS[label // 2])
    return image


COLORS = ["red", "green", "blue", "orange", "black"]
if arguments.data:
    table = load_cifar100(arguments.data)["train"]
else:
    labels = [row % 10 for row in range(640)]
    names = [f"{color} {shape}" for color in COLORS for shape in ("square", "circle")]
    table = Dataset.from_dict({"image": [draw(label, row) for row, label in enumerate(labels)], "label": labels})
    table = table.cast_column("label", ClassLabel(names=names))
pairs = ImagePairs(table, num_pairs=4000)

if arguments.text:
    text_model, tokenizer = AutoModel.from_pretrained(arguments.text), AutoTokenizer.from_pretrained(arguments.text)
else:
    tokenizer = ByT5Tokenizer()  # a random text encoder also maps captions to different embeddings
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
    text_model = BertModel(BertConfig(vocab_size=len(tokenizer), **sizes))
config = PairedCifarAlignerConfig.baseline(
    text_embed_dim=text_model.config.hidden_size, class_names=pairs.class_names, caption_normalization="whiten"
)
model, processor = PairedCifarAligner(config), PairedCifarAlignerProcessor.for_cifar100()
model.build_caption_bank(text_model.eval(), tokenizer)

settings = {"per_device_train_batch_size": 64, "learning_rate": 1e-3, "max_steps": 250, "report_to": "none"}
training = TrainingArguments("runs/pairs", save_strategy="no", remove_unused_columns=False, **settings)
Trainer(model, training, data_collator=PairCollator(processor, pairs.num_classes), train_dataset=pairs).train()

inputs = processor(images=[[table[2]["image"], table[5]["image"]]], return_tensors="pt")
for guess in model.eval().predict_captions(**inputs, k=3)[0]:
    print(f"{guess.probability:.2f}  {guess.caption}")
