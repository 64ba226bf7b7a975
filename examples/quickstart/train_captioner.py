"""Train a captioner on captioned images, and caption held-out ones.

    python examples/quickstart/train_captioner.py [--data FLICKR8K_FOLDER] [--vision MODEL --text MODEL]

Without options, a small model is trained from scratch on drawn scenes, without a download.
"""

import argparse

from transformers import ByT5Tokenizer, CLIPImageProcessor, GPT2Config, Trainer, TrainingArguments, ViTConfig

from vlmkit import QFormerCaptioner, QFormerCaptionerConfig, QFormerCaptionerProcessor
from vlmkit.data import CaptionCollator, CaptionPairs, load_flickr8k, load_scenes
from vlmkit.inference import caption_table
from vlmkit.metrics import caption_metrics

parser = argparse.ArgumentParser()
parser.add_argument("--data", help="folder of Flickr8k; drawn scenes by default")
parser.add_argument("--vision", help="pretrained image model, such as openai/clip-vit-base-patch32")
parser.add_argument("--text", help="pretrained language model, such as HuggingFaceTB/SmolLM2-135M-Instruct")
arguments = parser.parse_args()

tables = load_flickr8k(arguments.data) if arguments.data else load_scenes(num_train=2000, num_test=50)
if arguments.vision:
    processor = QFormerCaptionerProcessor.from_vision_text_pretrained(arguments.vision, arguments.text)
    model = QFormerCaptioner.from_vision_text_pretrained(arguments.vision, arguments.text, processor=processor)
else:
    images = CLIPImageProcessor(size={"height": 64, "width": 64}, do_center_crop=False)
    processor = QFormerCaptionerProcessor(images, ByT5Tokenizer(bos_token="<pad>"))  # one token for each byte
    sizes = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 192}
    vision = ViTConfig(image_size=64, patch_size=8, **sizes)
    ids = {"vocab_size": len(processor.tokenizer), **processor.special_token_ids()}
    text = GPT2Config(n_embd=96, n_layer=3, n_head=4, n_positions=128, **ids)
    model = QFormerCaptioner(
        QFormerCaptionerConfig(
            vision_config=vision, text_config=text, num_query_tokens=16, num_attention_heads=4, freeze_vision=False
        )
    )

trainer = Trainer(
    model,
    TrainingArguments(
        "runs/captioner",
        per_device_train_batch_size=32,
        learning_rate=1e-3,
        max_steps=300,
        remove_unused_columns=False,
        save_strategy="no",
        report_to="none",
    ),
    data_collator=CaptionCollator(processor),
    train_dataset=CaptionPairs(tables["train"]),
    processing_class=processor,
)
trainer.train()
trainer.save_model()
captions = caption_table(model, processor, tables["test"], max_new_tokens=60)
print(*captions[:5], caption_metrics(captions, tables["test"]["captions"]), sep="\n")
