"""Fine-tune a vision-language model with LoRA on questions about images, and save the merged model for chat.py.

    python examples/quickstart/finetune_vlm_lora.py [--vision MODEL] [--text MODEL] [--max_steps 30]

The questions are about drawn scenes. MODEL is a Hub id or a folder.
"""

import argparse

from transformers import Trainer, TrainingArguments

from vlmkit import SmolVLM, VlmkitSmolVLMProcessor
from vlmkit.data import ChatCollator, QuestionChats, load_scenes
from vlmkit.inference import first_replies
from vlmkit.training import adapt_backbones

parser = argparse.ArgumentParser()
parser.add_argument("--vision", default="timm/tf_efficientnet_lite0.in1k")
parser.add_argument("--text", default="HuggingFaceTB/SmolLM2-135M-Instruct")
parser.add_argument("--max_steps", type=int, default=30)
arguments = parser.parse_args()

tables = load_scenes(num_train=1000, num_test=20)
train, test = (QuestionChats(tables[split]) for split in ("train", "test"))
processor = VlmkitSmolVLMProcessor.from_vision_text_pretrained(arguments.vision, arguments.text, connector="mlp")
model = SmolVLM.from_vision_text_pretrained(arguments.vision, arguments.text, processor=processor)
model = adapt_backbones(model, vision="frozen", text="lora", rank=8, alpha=16)

trainer = Trainer(
    model,
    TrainingArguments(
        "runs/vlm_lora",
        per_device_train_batch_size=4,
        learning_rate=5e-4,
        max_steps=arguments.max_steps,
        remove_unused_columns=False,
        save_strategy="no",
        report_to="none",
        logging_steps=5,
    ),
    data_collator=ChatCollator(processor),
    train_dataset=train,
)
trainer.train()

merged = model.merge_and_unload()
merged.save_pretrained("runs/vlm")
processor.save_pretrained("runs/vlm")
for reply in first_replies(merged, processor, test, max_new_tokens=10):
    print(reply)
