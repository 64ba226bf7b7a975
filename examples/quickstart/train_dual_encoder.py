"""Train an image-text model on captioned images, and save it for search_images.py.

    python examples/quickstart/train_dual_encoder.py [--data FLICKR8K_FOLDER] [--vision MODEL --text MODEL]

Without options, a small model is trained from scratch on drawn scenes, without a download.
"""

import argparse

from transformers import BertConfig, ByT5Tokenizer, CLIPImageProcessor, ResNetConfig, Trainer, TrainingArguments

from vlmkit import DualEncoderConfig, DualEncoderModel, DualEncoderProcessor
from vlmkit.data import ContrastiveCollator, load_flickr8k, load_scenes
from vlmkit.inference import embed_table
from vlmkit.metrics import retrieval_metrics

parser = argparse.ArgumentParser()
parser.add_argument("--data", help="folder of Flickr8k; drawn scenes by default")
parser.add_argument("--vision", help="pretrained image model, such as google/vit-base-patch16-224")
parser.add_argument("--text", help="pretrained text model, such as sentence-transformers/all-MiniLM-L6-v2")
arguments = parser.parse_args()

tables = load_flickr8k(arguments.data) if arguments.data else load_scenes(num_train=2000)
settings = {"text_features": "encoder", "projection": "shared", "projection_dim": 128, "learn_temperature": True}
if arguments.vision:
    processor = DualEncoderProcessor.from_vision_text_pretrained(arguments.vision, arguments.text)
    model = DualEncoderModel.from_vision_text_pretrained(
        arguments.vision, arguments.text, processor=processor, **settings
    )
else:
    images = CLIPImageProcessor(size={"height": 64, "width": 64}, do_center_crop=False)
    processor = DualEncoderProcessor(images, ByT5Tokenizer())  # one token for each byte
    vision = ResNetConfig(hidden_sizes=[32, 64, 128, 256], depths=[1, 1, 1, 1], embedding_size=32, layer_type="basic")
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
    text = BertConfig(vocab_size=len(processor.tokenizer), **sizes)
    model = DualEncoderModel(
        DualEncoderConfig(vision_config=vision, text_config=text, freeze_vision=False, freeze_text=False, **settings)
    )

trainer = Trainer(
    model,
    TrainingArguments(
        "runs/dual_encoder",
        per_device_train_batch_size=64,
        learning_rate=2e-3,
        warmup_steps=30,
        num_train_epochs=8,
        remove_unused_columns=False,
        save_strategy="no",
        report_to="none",
    ),
    data_collator=ContrastiveCollator(processor, caption="random"),
    train_dataset=tables["train"],
    processing_class=processor,
)
trainer.train()
trainer.save_model()
print(retrieval_metrics(*embed_table(model, processor, tables["test"]), cutoffs=(1, 5)))
