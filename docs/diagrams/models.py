"""What flows where in each model, with shapes.

B batch, I images, C crops, N vision tokens, T text tokens, L tokens of a caption, Q queries, M image tokens, D width.
"""

from svg import Box, drawing


def draw_dual_encoder() -> str:
    """Return the picture of `DualEncoderModel`."""
    boxes = {
        "pixels": Box(75, 50, ["pixel_values", "(I, 3, H, W)"], "input", 120),
        "vision": Box(240, 50, ["vision_tower", "pooled (I, D_vision)"], "frozen", 150),
        "vision_projection": Box(425, 50, ["vision_projection", "(I, D)"], "trained", 150),
        "image_embeds": Box(600, 50, ["image_embeds", "(I, D), unit length"], "output", 140),
        "ids": Box(75, 170, ["input_ids", "(T, L)"], "input", 120),
        "text": Box(240, 170, ["text_tower", "pooled (T, D_text)"], "frozen", 150),
        "text_projection": Box(425, 170, ["text_projection", "(T, D)"], "trained", 150),
        "text_embeds": Box(600, 170, ["text_embeds", "(T, D), unit length"], "output", 140),
        "logits": Box(710, 110, ["logits, loss", "(I, T)"], "output", 110),
    }
    arrows = [
        ("pixels", "vision"),
        ("vision", "vision_projection"),
        ("vision_projection", "image_embeds"),
        ("ids", "text"),
        ("text", "text_projection"),
        ("text_projection", "text_embeds"),
        ("image_embeds", "logits"),
        ("text_embeds", "logits"),
    ]
    return drawing("DualEncoderModel", "Images and texts pass a tower and a projection each.", boxes, arrows, height=215)


def draw_paired_cifar() -> str:
    """Return the picture of `PairedCifarAligner`."""
    boxes = {
        "pixels": Box(85, 50, ["pixel_values", "(B, 3, H, 2H)", "two images side by side"], "input", 150),
        "vision": Box(265, 50, ["vision_tower", "pooled (B, D_vision)"], "trained", 150),
        "projection": Box(440, 50, ["vision_projection", "(B, D)"], "trained", 140),
        "embeds": Box(610, 50, ["image_embeds", "(B, D), unit length"], "output", 140),
        "captions": Box(85, 170, ["captions", "C² pairs of classes"], "input", 150),
        "encoder": Box(265, 170, ["text encoder", "runs once, not saved"], "frozen", 150),
        "bank": Box(440, 170, ["caption_embeds", "(C², D)"], "frozen", 140),
        "logits": Box(610, 170, ["logits, loss", "(B, C²)"], "output", 140),
    }
    arrows = [
        ("pixels", "vision"),
        ("vision", "projection"),
        ("projection", "embeds"),
        ("captions", "encoder"),
        ("encoder", "bank"),
        ("bank", "logits"),
        ("embeds", "logits"),
    ]
    text = "Pairs of images are compared with a bank of captions that a text encoder has embedded once."
    return drawing("PairedCifarAligner", text, boxes, arrows, height=215, width=700)


def draw_qformer_aligner() -> str:
    """Return the picture of `QFormerAligner`."""
    boxes = {
        "pixels": Box(75, 50, ["pixel_values", "(I, 3, H, W)"], "input", 120),
        "vision": Box(235, 50, ["vision_tower", "(I, N, D_vision)"], "frozen", 140),
        "projection": Box(400, 50, ["vision_projection", "(I, N, D)"], "trained", 140),
        "queries": Box(235, 130, ["query_tokens", "(Q, D)"], "trained", 140),
        "qformer": Box(400, 170, ["qformer", "layers of the text", "encoder, and cross-", "attention to images"], "trained", 150),
        "ids": Box(75, 210, ["input_ids", "(T, L)"], "input", 120),
        "embeddings": Box(235, 210, ["text_embeddings", "(T, L, D)"], "trained", 140),
        "image_embeds": Box(575, 120, ["image_embeds", "mean of queries (I, D)"], "output", 160),
        "text_embeds": Box(575, 220, ["text_embeds", "first token (T, D)"], "output", 160),
        "losses": Box(730, 170, ["losses", "contrastive,", "matching,", "captioning"], "output", 110),
    }
    arrows = [
        ("pixels", "vision"),
        ("vision", "projection"),
        ("projection", "qformer"),
        ("queries", "qformer"),
        ("ids", "embeddings"),
        ("embeddings", "qformer"),
        ("qformer", "image_embeds"),
        ("qformer", "text_embeds"),
        ("image_embeds", "losses"),
        ("text_embeds", "losses"),
    ]
    text = "Learned queries and texts pass the layers of a text encoder; queries attend to vision features."
    return drawing("QFormerAligner", text, boxes, arrows, height=260)


def draw_qformer_captioner() -> str:
    """Return the picture of `QFormerCaptioner`."""
    boxes = {
        "pixels": Box(75, 50, ["pixel_values", "(B, 3, H, W)"], "input", 120),
        "vision": Box(240, 50, ["model.vision_tower", "(B, N, D_vision)"], "frozen", 160),
        "connector": Box(430, 50, ["model.connector", "Q-Former (B, 1 + Q, D)"], "trained", 170),
        "ids": Box(75, 160, ["input_ids", "(B, T)"], "input", 120),
        "language": Box(240, 160, ["model.language_model", "(B, T, D)"], "trained", 160),
        "cross": Box(430, 160, ["model.cross_attention", "text to queries (B, T, D)"], "trained", 170),
        "head": Box(590, 160, ["lm_head"], "trained", 90),
        "logits": Box(715, 160, ["logits", "(B, T, vocabulary)"], "output", 130),
    }
    arrows = [
        ("pixels", "vision"),
        ("vision", "connector"),
        ("connector", "cross"),
        ("ids", "language"),
        ("language", "cross"),
        ("cross", "head"),
        ("head", "logits"),
    ]
    text = "The outputs of a language model attend to the queries of a Q-Former, which attend to vision features."
    return drawing("QFormerCaptioner", text, boxes, arrows, height=205)


def draw_smolvlm() -> str:
    """Return the picture of `SmolVLM`."""
    boxes = {
        "pixels": Box(75, 50, ["pixel_values", "(C, 3, H, W)"], "input", 120),
        "vision": Box(240, 50, ["model.vision_tower", "(C, N, D_vision)"], "frozen", 160),
        "connector": Box(440, 50, ["model.connector", "Q-Former, Perceiver,", "MLP or pixel shuffle"], "trained", 170),
        "images": Box(640, 50, ["image embeddings", "per image (M, D)"], "output", 150),
        "ids": Box(75, 180, ["input_ids (B, T)", "with placeholders"], "input", 130),
        "embeddings": Box(240, 180, ["token embeddings", "(B, T, D)"], "trained", 160),
        "merge": Box(440, 180, ["inputs_embeds (B, T, D)", "images at placeholders"], "output", 180),
        "language": Box(640, 180, ["model.language_model", "(B, T, D)"], "trained", 160),
        "cross": Box(440, 280, ["model.cross_attention", "between the layers, with", 'fusion="cross_attention"'], "trained", 190),
        "head": Box(640, 280, ["lm_head", "logits (B, T, vocabulary)"], "trained", 170),
    }
    arrows = [
        ("pixels", "vision"),
        ("vision", "connector"),
        ("connector", "images"),
        ("images", "merge"),
        ("ids", "embeddings"),
        ("embeddings", "merge"),
        ("merge", "language"),
        ("cross", "language"),
        ("language", "head"),
    ]
    text = "Image embeddings replace placeholders in the input embeddings of a language model."
    return drawing("SmolVLM", text, boxes, arrows, height=325)


DRAWINGS = {
    "dual_encoder": draw_dual_encoder,
    "paired_cifar": draw_paired_cifar,
    "qformer_aligner": draw_qformer_aligner,
    "qformer_captioner": draw_qformer_captioner,
    "smolvlm": draw_smolvlm,
}
