"""What flows where in each model, with the shapes of the tensors."""

from svg import Arrow, Box, drawing, row_centers

COLORS = [
    ("data", "input or output"),
    ("blue frozen", "pretrained, frozen by default"),
    ("green", "trained"),
    ("step", "without weights"),
]


def draw_dual_encoder() -> str:
    """Return the picture of `DualEncoderModel`."""
    image, middle, text = 200, 400, 600
    rows = row_centers(1, 2, 2, 2, 1, 2)
    boxes = {
        "pixels": Box(image, rows[0], ["pixel_values (I, 3, H, W)"], "data", 240),
        "vision": Box(image, rows[1], ["vision_tower", "image backbone, pooled"], "blue frozen", 240),
        "vision_projection": Box(image, rows[2], ["vision_projection", "linear"], "green", 240),
        "ids": Box(text, rows[0], ["input_ids (B, T)"], "data", 240),
        "text": Box(text, rows[1], ["text_tower", "text backbone, pooled"], "blue frozen", 240),
        "text_projection": Box(text, rows[2], ["text_projection", 'linear if projection="shared"'], "green", 240),
        "similarity": Box(middle, rows[3], ["cosine similarity", "divided by the temperature"], "step", 240),
        "logits": Box(middle, rows[4], ["logits_per_image (I, B)"], "data", 240),
        "loss": Box(middle, rows[5], ["loss", "InfoNCE or sigmoid"], "step", 240),
    }
    arrows = [
        Arrow("pixels", "vision"),
        Arrow("vision", "vision_projection", ["(I, D_vision)"], "left"),
        Arrow(
            "vision_projection",
            "similarity",
            ["image_embeds", "(I, D)"],
            "left",
            bend=True,
        ),
        Arrow("ids", "text"),
        Arrow("text", "text_projection", ["(B, D_text)"]),
        Arrow(
            "text_projection",
            "similarity",
            ["text_embeds", "(B, D)"],
            bend=True,
        ),
        Arrow("similarity", "logits"),
        Arrow("logits", "loss"),
    ]
    description = (
        "Images pass the vision tower and the vision projection, texts the text tower and the text projection. The "
        "logits are the cosine similarities of all images with all texts, divided by the temperature. The loss is "
        "computed from them."
    )
    symbols = "I images · B texts · T text tokens · D width"
    return drawing("DualEncoderModel", description, boxes, arrows, colors=COLORS, symbols=symbols)


def draw_paired_cifar() -> str:
    """Return the picture of `PairedCifarAligner`."""
    image, middle, text = 200, 400, 600
    rows = row_centers(2, 2, 2, 2, 1, 2)
    boxes = {
        "pixels": Box(image, rows[0], ["pixel_values (B, 3, H, 2H)", "two images side by side"], "data", 240),
        "vision": Box(image, rows[1], ["vision_tower", "image backbone, pooled"], "green", 240),
        "projection": Box(image, rows[2], ["vision_projection", "linear"], "green", 240),
        "captions": Box(text, rows[0], ["captions", "one for each of C² class pairs"], "data", 240),
        "encoder": Box(text, rows[1], ["text encoder", "runs once, not in the model"], "blue frozen", 240),
        "bank": Box(text, rows[2], ["caption_embeds (C², D)", "caption bank, in the checkpoint"], "data", 240),
        "similarity": Box(middle, rows[3], ["cosine similarity", "divided by the temperature"], "step", 240),
        "logits": Box(middle, rows[4], ["logits_per_image (B, C²)"], "data", 240),
        "loss": Box(middle, rows[5], ["loss", "cross-entropy with caption_ids"], "step", 240),
    }
    arrows = [
        Arrow("pixels", "vision"),
        Arrow("vision", "projection", ["(B, D_vision)"], "left"),
        Arrow(
            "projection",
            "similarity",
            ["image_embeds", "(B, D)"],
            "left",
            bend=True,
        ),
        Arrow("captions", "encoder"),
        Arrow("encoder", "bank", ["build_caption_bank"]),
        Arrow("bank", "similarity", bend=True),
        Arrow("similarity", "logits"),
        Arrow("logits", "loss"),
    ]
    description = (
        "Pairs of images pass the vision tower and the vision projection. A frozen text encoder embeds the captions of "
        "all pairs of classes once, into the caption bank. The logits are the cosine similarities of the pairs of "
        "images with all captions, divided by the temperature. The loss is a cross-entropy over them."
    )
    symbols = "B pairs of images · C classes · D width"
    return drawing("PairedCifarAligner", description, boxes, arrows, colors=COLORS, symbols=symbols)


def draw_qformer_aligner() -> str:
    """Return the picture of `QFormerAligner`."""
    image, middle, text = 135, 385, 635
    rows = row_centers(1, 2, 2, 2)
    heads = row_centers(2, 1, top=rows[3] + 92)
    boxes = {
        "pixels": Box(image, rows[0], ["pixel_values (I, 3, H, W)"], "data", 220),
        "vision": Box(image, rows[1], ["vision_tower", "image backbone"], "blue frozen", 220),
        "projection": Box(image, rows[2], ["vision_projection", "linear"], "green", 220),
        "queries": Box(middle, rows[2], ["query_tokens", "learned"], "green", 220),
        "ids": Box(text, rows[1], ["input_ids (B, T)"], "data", 220),
        "embeddings": Box(text, rows[2], ["text_embeddings", "of tokens and positions"], "green", 220),
        "qformer": Box(
            middle, rows[3], ["qformer", "layers of a text encoder; queries also attend to the image"], "green", 720
        ),
        "similarity": Box(image, heads[0], ["cosine similarity", "mean of queries, first token"], "step", 220),
        "matching": Box(middle, heads[0], ["matching_head", "do image and text match?"], "green", 220),
        "captioning": Box(text, heads[0], ["captioning_head", "predicts the next token"], "green", 220),
        "contrastive_loss": Box(image, heads[1], ["contrastive_loss"], "data", 220),
        "matching_loss": Box(middle, heads[1], ["matching_loss"], "data", 220),
        "captioning_loss": Box(text, heads[1], ["captioning_loss"], "data", 220),
    }
    arrows = [
        Arrow("pixels", "vision"),
        Arrow("vision", "projection", ["(I, N, D_vision)"]),
        Arrow("projection", "qformer", ["(I, N, D)"]),
        Arrow("queries", "qformer", ["(I, Q, D)"]),
        Arrow("ids", "embeddings"),
        Arrow("embeddings", "qformer", ["(B, T, D)"]),
        Arrow("qformer", "similarity", ["unimodal", "(I, Q, D), (B, T, D)"]),
        Arrow("qformer", "matching", ["multimodal", "queries (P, Q, D)"]),
        Arrow("qformer", "captioning", ["multimodal_causal", "text (B, T, D)"]),
        Arrow("similarity", "contrastive_loss", ["logits (I, B)"]),
        Arrow("matching", "matching_loss", ["logits (P,)"]),
        Arrow("captioning", "captioning_loss"),
    ]
    description = (
        "Projected vision features, learned queries and embedded texts enter the Q-Former. It runs three times: "
        "without attention between queries and text for the contrastive loss, with attention in both directions for "
        "the matching loss, and with causal attention of the text for the captioning loss."
    )
    symbols = "I images · B texts · P pairs · N vision tokens · Q queries · T text tokens · D width"
    return drawing("QFormerAligner", description, boxes, arrows, colors=COLORS, symbols=symbols)


def draw_qformer_captioner() -> str:
    """Return the picture of `QFormerCaptioner`."""
    image, text = 165, 635
    rows = row_centers(1, 2, 2, 1, 1)
    boxes = {
        "pixels": Box(image, rows[0], ["pixel_values (B, 3, H, W)"], "data", 260),
        "vision": Box(image, rows[1], ["model.vision_tower", "one or several of its layers"], "blue frozen", 260),
        "connector": Box(image, rows[2], ["model.connector", "projection and Q-Former"], "green", 260),
        "ids": Box(text, rows[0], ["input_ids (B, T)"], "data", 260),
        "language": Box(text, rows[1], ["model.language_model", "decoder, without image tokens"], "green", 260),
        "cross": Box(text, rows[2], ["model.cross_attention", "text attends to queries"], "green", 260),
        "head": Box(text, rows[3], ["lm_head"], "green", 260),
        "logits": Box(text, rows[4], ["logits (B, T, V)"], "data", 260),
    }
    arrows = [
        Arrow("pixels", "vision"),
        Arrow("vision", "connector", ["vision_features (B, N, D_vision)"]),
        Arrow("connector", "cross", ["(B, 1 + Q, D)", "keys, values"]),
        Arrow("ids", "language"),
        Arrow("language", "cross", ["(B, T, D)"], "left"),
        Arrow("cross", "head", ["last_hidden_state (B, T, D)"], "left"),
        Arrow("head", "logits"),
    ]
    description = (
        "Images pass the vision tower and the connector, a Q-Former with 1 + Q queries. Texts pass the decoder. Its "
        "outputs attend to the queries by cross-attention, and the language modeling head computes the logits."
    )
    symbols = "B images with their texts · N vision tokens · Q queries · T text tokens · D width · V vocabulary"
    return drawing("QFormerCaptioner", description, boxes, arrows, colors=COLORS, symbols=symbols)


def draw_smolvlm() -> str:
    """Return the picture of `SmolVLM`."""
    image, text = 165, 635
    rows = row_centers(2, 2, 3, 2, 1, 1)
    boxes = {
        "pixels": Box(image, rows[0], ["pixel_values (C, 3, H, W)", "crops of all images"], "data", 260),
        "vision": Box(image, rows[1], ["model.vision_tower", "image backbone"], "blue frozen", 260),
        "connector": Box(
            image, rows[2], ["model.connector", "Q-Former, Perceiver,", "MLP or pixel shuffle"], "green", 260
        ),
        "cross": Box(image, rows[3], ["model.cross_attention", "blocks between decoder layers"], "green", 260),
        "ids": Box(text, rows[0], ["input_ids (B, T)", "with image tokens"], "data", 260),
        "embeddings": Box(text, rows[1], ["token embeddings", "of model.language_model"], "green", 260),
        "merge": Box(text, rows[2], ["merge", "image embeddings replace", "image tokens"], "step", 260),
        "language": Box(text, rows[3], ["model.language_model", "decoder"], "green", 260),
        "head": Box(text, rows[4], ["lm_head"], "green", 260),
        "logits": Box(text, rows[5], ["logits (B, T, V)"], "data", 260),
    }
    arrows = [
        Arrow("pixels", "vision"),
        Arrow("vision", "connector", ["vision_features (C, N, D_vision)"]),
        Arrow("connector", "merge", ["(I, M, D)", 'fusion="autoregressive"']),
        Arrow("connector", "cross", ["(C, M, D)"], optional=True),
        Arrow("cross", "language", ['fusion="cross_attention"'], optional=True),
        Arrow("ids", "embeddings"),
        Arrow("embeddings", "merge", ["(B, T, D)"], "left"),
        Arrow("merge", "language", ["inputs_embeds (B, T, D)"], "left"),
        Arrow("language", "head", ["last_hidden_state (B, T, D)"], "left"),
        Arrow("head", "logits"),
    ]
    description = (
        "Crops of images pass the vision tower and the connector. The resulting embeddings replace the image tokens in "
        "the token embeddings of the texts. The decoder runs on them, and the language modeling head computes the "
        'logits. With fusion="cross_attention", the decoder layers attend to the embeddings instead.'
    )
    symbols = "C crops · I images · M image tokens · B texts · N vision tokens · T text tokens · D width · V vocabulary"
    return drawing("SmolVLM", description, boxes, arrows, colors=COLORS, symbols=symbols)


DRAWINGS = {
    "dual_encoder": draw_dual_encoder,
    "paired_cifar": draw_paired_cifar,
    "qformer_aligner": draw_qformer_aligner,
    "qformer_captioner": draw_qformer_captioner,
    "smolvlm": draw_smolvlm,
}
